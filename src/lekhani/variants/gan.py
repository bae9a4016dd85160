"""What all GANs share: two networks, their optimisers, the order of their steps, and the metrics a diagnosis needs.

A variant's file defines its networks and its two losses; nothing here asks which variant it serves.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Variant
from lekhani.variants.nets import channels_last
from lekhani.variants.optimise import optimise, set_lr, share_of_lr
from lekhani.variants.state import require_count, require_scalar


class DiscriminatorLoss(NamedTuple):
    """A scalar loss, the logits [N] on real and on generated images that it came from, and further metrics to log."""

    loss: Tensor
    real: Tensor
    fake: Tensor
    metrics: dict[str, Tensor] = {}  # noqa: RUF012 - never written to


class Gan(Variant):
    """A generator `g` and a discriminator `d` over images in [-1,1]; subclasses define the loss of each."""

    capturable = True
    settings: params.Gan

    def __init__(self, settings: params.Gan, g: nn.Module, d: nn.Module, device: torch.device) -> None:
        self.settings = settings
        self.noise_dim = settings.noise_dim
        self.g, self.d = channels_last(g, device), channels_last(d, device)
        self.optimiser_g = torch.optim.Adam(self.g.parameters(), settings.lr_g, settings.betas, fused=True)
        self.optimiser_d = torch.optim.Adam(self.d.parameters(), settings.lr_d, settings.betas, fused=True)
        self.turns = _Turns(device)

    @abstractmethod
    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        """On real and detached generated images float32 [N,1,H,W] in [-1,1], both augmented, with labels int64 [N]."""

    @abstractmethod
    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """On the same, a scalar; only `fake` carries a gradient."""

    def augmented(self, images: Tensor) -> Tensor:
        """Images [N,1,H,W] in [-1,1] as the discriminator sees them."""
        return diff_augment(images, self.settings.augment)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, and one of the generator at every n_dis-th call. See Variant.step.

        The generator learns from the same generated batch, against the updated discriminator.
        """
        self.schedule()
        generator_too = self.turns.take(self.settings.n_dis)
        metrics = self.run(self._update, images, labels, generator_too=generator_too)
        if generator_too:
            self.turns.last = {name: metrics[name] for name in _GENERATOR_METRICS}
        return metrics | (self.turns.last or dict.fromkeys(_GENERATOR_METRICS, torch.zeros_like(metrics["loss_d"])))

    def _update(self, images: Tensor, labels: Tensor, generator_too: bool) -> dict[str, Tensor]:
        real = images * 2 - 1
        with self.autocast, torch.set_grad_enabled(generator_too):
            noise = torch.randn(images.shape[0], self.noise_dim, device=images.device)
            fake = self.g(noise, labels).float() * 2 - 1  # images are float32 in whatever precision they were made
        metrics = self._discriminator_step(real, fake.detach(), labels)
        return metrics | self._generator_step(real, fake, labels) if generator_too else metrics

    def _discriminator_step(self, real: Tensor, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with self.autocast:
            loss, on_real, on_fake, metrics = self.discriminator_loss(
                self.augmented(real), self.augmented(fake), labels
            )
        norm = optimise(loss, self.optimiser_d, self.settings.clip_norm)
        return {"loss_d": loss.detach(), **discrimination(on_real, on_fake), "grad_norm_d": norm, **metrics}

    def _generator_step(self, real: Tensor, fake: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.d.requires_grad_(False)  # the gradient through D is needed, not that of its weights
        with self.autocast:
            loss = self.generator_loss(self.augmented(real), self.augmented(fake), labels)
        norm = optimise(loss, self.optimiser_g, self.settings.clip_norm)
        self.d.requires_grad_(True)
        return {"loss_g": loss.detach(), "grad_norm_g": norm}

    def schedule(self) -> None:
        """Set what depends on `progress`."""
        share = share_of_lr(self.settings.schedule, self.progress)
        set_lr(self.optimiser_g, self.settings.lr_g * share)
        set_lr(self.optimiser_d, self.settings.lr_d * share)

    def generator(self) -> nn.Module:
        return self.g

    def _parts(self) -> dict[str, Any]:
        return {
            "g": self.g,
            "d": self.d,
            "optimiser_g": self.optimiser_g,
            "optimiser_d": self.optimiser_d,
            "turns": self.turns,
        }


_GENERATOR_METRICS = ("loss_g", "grad_norm_g")


class _Turns:
    """Counts the discriminator's steps, and keeps the generator's last metrics for the steps without one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.taken = 0
        self.last: dict[str, Tensor] = {}

    def take(self, n_dis: int) -> bool:
        """Count one step; True when it is the generator's turn as well."""
        self.taken += 1
        return self.taken % n_dis == 0

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        taken, last = require_count("turns.taken", state["taken"]), state["last"]
        if last and set(last) != set(_GENERATOR_METRICS):
            raise ValueError("turns.last are not the metrics of a step")
        self.taken = taken
        self.last = {name: require_scalar(value).to(self.device) for name, value in last.items()}


def discrimination(on_real: Tensor, on_fake: Tensor) -> dict[str, Tensor]:
    """How well logits [N] tell real from generated images: the share of each that is right, and the mean difference."""
    return {
        "accuracy_real": (on_real > 0).float().mean(),
        "accuracy_fake": (on_fake < 0).float().mean(),
        "logit_gap": (on_real.detach() - on_fake.detach()).float().mean(),
    }


def diff_augment(images: Tensor, policy: Sequence[str]) -> Tensor:
    """Random changes of images float32 [N,1,H,W] in [-1,1] that gradients flow through, one draw per image and call.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020: brightness in +-0.5 and
    contrast in [0.5, 1.5] for their three colour changes, translation by up to an eighth of the image, a cutout of
    half its side.
    """
    for name in policy:
        images = _AUGMENTATIONS[name](images)
    return images


def _uniform(images: Tensor) -> Tensor:
    return torch.rand(images.shape[0], 1, 1, 1, device=images.device, dtype=images.dtype)


def _brightness(images: Tensor) -> Tensor:
    return images + _uniform(images) - 0.5


def _contrast(images: Tensor) -> Tensor:
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform(images) + 0.5) + mean


def _translation(images: Tensor) -> Tensor:
    n, _, height, width = images.shape
    reach = (round(height / 8), round(width / 8))
    down, right = (torch.randint(-r, r + 1, (n, 1), device=images.device) for r in reach)
    # Rows and columns are looked up in a copy framed by the background, which is -1.
    framed = F.pad(images, (1, 1, 1, 1), value=-1.0)
    rows = (torch.arange(height, device=images.device) + 1 + down).clamp(0, height + 1)
    columns = (torch.arange(width, device=images.device) + 1 + right).clamp(0, width + 1)
    each = torch.arange(n, device=images.device)[:, None, None]
    return framed[each, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def _cutout(images: Tensor) -> Tensor:
    n, _, height, width = images.shape
    sides = (height // 2, width // 2)
    top, left = (
        torch.randint(-(side // 2), size - side // 2 + 1, (n, 1), device=images.device)
        for side, size in zip(sides, (height, width), strict=True)
    )
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows = (row >= top) & (row < top + sides[0])
    in_columns = (column >= left) & (column < left + sides[1])
    hole = (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(1)
    return torch.where(hole, -1.0, images)


_AUGMENTATIONS = {"brightness": _brightness, "contrast": _contrast, "translation": _translation, "cutout": _cutout}
