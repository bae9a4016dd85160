"""A training run of seconds, for tests of the loop and of its checkpoints."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lekhani import params
from lekhani.train.loop import Trained, Trainer, TrainerConfig
from lekhani.variants import VARIANTS

Run = Callable[..., Trained]


def train(tiny: params.Variants, name: str = "dcgan", **given: Any) -> Trained:
    """Train one of the `tiny` variants on 20 random images of 3 classes; keywords go to the config and its settings."""
    own = {
        key: given.pop(key) for key in list(given) if key in set(params.Train.model_fields) - {"images_seen", "seed"}
    }
    settings = params.Train(images_seen=params.Budget(per_class=1), **{"log_every": 1, "sample_every": 1000, **own})
    defaults: dict[str, Any] = {
        "build": lambda device: VARIANTS[name].build(tiny, 28, 3, device),
        "images": np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8),
        "labels": np.arange(20, dtype=np.int64) % 3,
        "images_seen": 72,
        "batch_size": 8,
        "ema_decay": 0.9,
        "seed": 5,
        "device": torch.device("cpu"),
    }
    return Trainer(TrainerConfig(**defaults | given, settings=settings)).fit()


def same_weights(one: Trained, other: Trained) -> bool:
    """Whether two runs ended with equal bytes."""
    first, second = one.generator.state_dict(), other.generator.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())
