"""What all GANs share: two players, their optimisers, the order of their steps, and the figures a diagnosis needs.

A variant's file says its networks and its two losses; nothing here asks which variant it serves.
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
from lekhani.variants.optimise import cosine, descend, set_rate


class Verdict(NamedTuple):
    """What the discriminator's turn gives: its loss, its logits [N] on real and generated images, and more figures to log."""

    loss: Tensor
    real: Tensor
    fake: Tensor
    more: dict[str, Tensor] = {}  # noqa: RUF012 - never written to


class Gan(Variant):
    """A generator `g` and a discriminator `d` over images in [-1,1]; subclasses say what each is to minimise."""

    choice: params.Gan

    def __init__(self, choice: params.Gan, g: nn.Module, d: nn.Module, device: torch.device) -> None:
        self.choice = choice
        self.noise_dim = choice.noise_dim
        self.g, self.d = channels_last(g, device), channels_last(d, device)
        self.optimiser_g = torch.optim.Adam(self.g.parameters(), choice.lr_g, choice.betas, fused=True)
        self.optimiser_d = torch.optim.Adam(self.d.parameters(), choice.lr_d, choice.betas, fused=True)
        self.turns = _Turns()

    @abstractmethod
    def judge(self, real: Tensor, fake: Tensor, labels: Tensor) -> Verdict:
        """The discriminator's loss on real and detached generated images [N,1,H,W] in [-1,1], both as it is to see them."""

    @abstractmethod
    def forge(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """The generator's loss on the same; only `fake` carries a gradient."""

    def seen(self, images: Tensor) -> Tensor:
        """Images as the discriminator sees them."""
        return diff_augment(images, self.choice.augment)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, and one of the generator at every n_dis-th call.

        The generated batch that D learns from also teaches G, against the updated D.
        """
        self._set_rates()
        turn = self.turns.take(self.choice.n_dis)
        real = images * 2 - 1
        with self.autocast, torch.set_grad_enabled(turn):
            noise = torch.randn(images.shape[0], self.noise_dim, device=images.device)
            fake = self.g(noise, labels).float() * 2 - 1  # images are float32 in whatever precision they were made
        with self.autocast:
            verdict = self.judge(self.seen(real), self.seen(fake.detach()), labels)
        norm_d = descend(verdict.loss, self.optimiser_d, self.choice.clip_norm)
        told = {
            "loss_d": verdict.loss.detach(),
            "accuracy_real": (verdict.real > 0).float().mean(),
            "accuracy_fake": (verdict.fake < 0).float().mean(),
            "logit_gap": (verdict.real.detach() - verdict.fake.detach()).float().mean(),
            "grad_norm_d": norm_d,
            **verdict.more,
        }
        if turn:
            self.d.requires_grad_(False)  # G's step needs the gradient through D, not of D's weights
            with self.autocast:
                loss = self.forge(self.seen(real), self.seen(fake), labels)
            self.turns.last = {
                "loss_g": loss.detach(),
                "grad_norm_g": descend(loss, self.optimiser_g, self.choice.clip_norm),
            }
            self.d.requires_grad_(True)
        return {
            **told,
            **(
                self.turns.last or {name: torch.zeros_like(verdict.loss.detach()) for name in ("loss_g", "grad_norm_g")}
            ),
        }

    def _set_rates(self) -> None:
        share = 1.0 if self.choice.schedule == "constant" else cosine(self.progress, floor=0.1)
        set_rate(self.optimiser_g, self.choice.lr_g * share)
        set_rate(self.optimiser_d, self.choice.lr_d * share)

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.g

    def _parts(self) -> dict[str, Any]:
        return {
            "g": self.g,
            "d": self.d,
            "optimiser_g": self.optimiser_g,
            "optimiser_d": self.optimiser_d,
            "turns": self.turns,
        }


class _Turns:
    """Whose turn it is: counts the discriminator's steps, and keeps the generator's last figures for the steps without one."""

    def __init__(self) -> None:
        self.taken = 0
        self.last: dict[str, Tensor] = {}

    def take(self, n_dis: int) -> bool:
        """True when the generator moves too."""
        self.taken += 1
        return self.taken % n_dis == 0

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken, self.last = state["taken"], state["last"]


def diff_augment(images: Tensor, policy: Sequence[str]) -> Tensor:
    """Random changes of images float32 [N,1,H,W] in [-1,1] through which gradients flow, one draw per image and call.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", NeurIPS 2020: brightness in +-0.5 and
    contrast in [0.5, 1.5] for their three colour changes, translation by up to an eighth of the frame, a cutout of half its side.
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
    # Rows and columns are looked up in a copy framed by paper, which is -1.
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
