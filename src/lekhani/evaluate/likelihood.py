"""How well a variant explains images that it was not trained on: its bound on their likelihood, in nats.

Grey images are binarised, x ~ Bernoulli(grey), and the bound is on -log p(x) of the result, as in the literature on
binarised MNIST (Salakhutdinov and Murray, "On the Quantitative Analysis of Deep Belief Networks", ICML 2008; Gregor et
al., "DRAW", ICML 2015). Here they are binarised once, so that every model gets the same ones. No bound falls below the
entropy of binarising, but by luck; it grows with the grey in the images, so figures compare within a dataset only.
"""

import numpy as np
import torch
from scipy.special import entr

from lekhani.data.spec import Bytes, Labels
from lekhani.variants.base import Variant


def nats(
    variant: Variant, images: Bytes, labels: Labels, seed: int, suffix: str = "", batch_size: int = 256
) -> dict[str, float]:
    """The bound of images uint8 [N,H,W], N at least 2, with labels int64 [N]; {} for a variant without a likelihood.

    Lower is better. In nats per image: `nats_per_image`, the mean bound, and `nats_per_image_se`, its standard error
    over the images; `nats_per_image_floor`, the entropy of binarising these images, which no model can fall below but
    by luck; `nats_reconstruction` and `nats_kl`, the means of its two parts, which sum to it. `suffix` names the set
    of images and stands right behind each metric's name: nats_per_image_train, nats_per_image_train_se,
    nats_per_image_train_floor, nats_reconstruction_train, nats_kl_train.

    One sample of the latents per image, drawn from `seed` batch by batch; torch's own random state stays as it was.
    The variant's generator is put in eval mode, and the bound is computed where its weights lie.
    """
    binary, device = binarised(images, seed), next(variant.generator().eval().parameters()).device
    parts = []
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        for start in range(0, len(binary), batch_size):
            rows = slice(start, start + batch_size)
            found = variant.bound(
                torch.from_numpy(binary[rows]).unsqueeze(1).float().to(device),
                torch.from_numpy(labels[rows]).to(device),
            )
            if found is None:
                return {}
            parts.append(torch.stack(found).double().cpu().numpy())
    reconstruction, kl = np.concatenate(parts, axis=1)
    total = reconstruction + kl
    grey = images / 255
    entropy = (entr(grey) + entr(1 - grey)).sum((1, 2))
    return {
        f"nats_per_image{suffix}": float(total.mean()),
        f"nats_per_image{suffix}_floor": float(entropy.mean()),
        f"nats_per_image{suffix}_se": float(total.std(ddof=1) / np.sqrt(len(total))),
        f"nats_reconstruction{suffix}": float(reconstruction.mean()),
        f"nats_kl{suffix}": float(kl.mean()),
    }


def binarised(images: Bytes, seed: int) -> Bytes:
    """Images uint8 [N,H,W] as 0 and 1: a pixel of grey g is 1 with probability g / 255."""
    return (np.random.default_rng([seed, 9]).integers(255, size=images.shape, dtype=np.uint8) < images).astype(np.uint8)
