"""Flow matching: a U-Net learns the velocity that carries noise to an image along a straight line.

Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, in the rectified form of Liu et al., "Flow Straight
and Fast", ICLR 2023: x_t = (1 - t) noise + t image, and the network regresses image - noise. Times are logit-normal
(Esser et al. 2024), so that most of the effort goes to the middle of the path. Labels are hidden now and then, which
allows classifier-free guidance (Ho and Salimans 2021). The generator is the whole sampler: a few Euler steps, unrolled.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Stepwise, Variant
from lekhani.variants.nets import channels_last


class ResBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation; time and label come in as scale and shift. [N,c_in,h,w] -> [N,c_out,h,w]."""

    def __init__(self, c_in: int, c_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_groups(c_in), c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * c_out)
        self.norm2 = nn.GroupNorm(_groups(c_out), c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # each block starts as the identity
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.c_out = c_out

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """See the class; `embedding` float32 [N, embedding]."""
        film = self.film(embedding)[:, :, None, None]
        # Slices, not chunk: the ONNX exporter freezes the batch size at a chunk.
        scale, shift = film[:, : self.c_out], film[:, self.c_out :]
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden) * (1 + scale) + shift))
        return self.skip(x) + hidden  # type: ignore[no-any-return]


class Velocity(nn.Module):
    """U-Net on the image unshuffled to half its size: x float32 [N,1,H,W], t float32 [N], labels int64 [N] -> velocity [N,1,H,W].

    Label `n_classes` stands for "not told".
    """

    def __init__(self, n_classes: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.width = channels[0]
        embedding = 4 * channels[0]
        self.time = nn.Sequential(nn.Linear(2 * self.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(n_classes + 1, embedding)
        self.enter = nn.Conv2d(4, channels[0], 3, padding=1)
        self.down = nn.ModuleList(ResBlock(c, c, embedding) for c in channels[:-1])
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(channels))
        self.middle = ResBlock(channels[-1], channels[-1], embedding)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(ResBlock(2 * c, c, embedding) for c in channels[:-1])
        self.norm = nn.GroupNorm(_groups(channels[0]), channels[0])
        self.leave = nn.Conv2d(channels[0], 4, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.exp(torch.linspace(0.0, math.log(1000.0), self.width)), persistent=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        angles = t[:, None] * self.frequencies
        embedding = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(labels))
        h = self.enter(F.pixel_unshuffle(x, 2))
        skips = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, embedding)
            skips.append(h)
            h = shrink(h)
        h = self.middle(h, embedding)
        for block, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            skip = skips.pop()
            h = grow(F.interpolate(h, size=skip.shape[-2:], mode="nearest"))
            h = block(torch.cat([h, skip], 1), embedding)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


class Sampler(Stepwise):
    """Euler steps from noise at t=0 to an image at t=1: noise float32 [N, H*W], labels int64 [N] -> images float32 [N,1,H,W] in [0,1].

    When guidance is not 1, each step is pushed away from where it would go without a label.
    """

    def __init__(self, velocity: Velocity, image_size: int, n_classes: int, steps: int, guidance: float) -> None:
        super().__init__()
        self.velocity = velocity
        self.image_size, self.n_classes, self.steps, self.guidance = image_size, n_classes, steps, guidance

    def begin(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See Stepwise."""
        return noise.reshape(noise.shape[0], 1, self.image_size, self.image_size)

    def advance(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """See Stepwise."""
        n = state.shape[0]
        if self.guidance == 1:
            return state + self.velocity(state, position.expand(n), labels) / self.steps  # type: ignore[no-any-return]
        both = torch.cat([labels, torch.full_like(labels, self.n_classes)])
        velocity = self.velocity(torch.cat([state, state]), position.expand(2 * n), both)
        told, untold = velocity[:n], velocity[n:]
        return state + (untold + self.guidance * (told - untold)) / self.steps  # type: ignore[no-any-return]

    def finish(self, state: Tensor) -> Tensor:
        """See Stepwise."""
        return (state.clamp(-1, 1) + 1) / 2


class FlowMatching(Variant):
    """See the module."""

    name = "flow_matching"
    conditional = True

    def __init__(self, choice: params.FlowMatching, image_size: int, n_classes: int, device: torch.device) -> None:
        self.choice = choice
        self.n_classes = n_classes
        self.noise_dim = image_size**2
        self.velocity = channels_last(Velocity(n_classes, choice.channels), device)
        self.sampler = Sampler(self.velocity, image_size, n_classes, choice.steps, choice.guidance)
        self.optimiser = torch.optim.AdamW(self.velocity.parameters(), choice.lr, choice.betas, weight_decay=choice.weight_decay, fused=True)

    @classmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "FlowMatching":
        """See Variant.build."""
        return cls(choice.flow_matching, image_size, n_classes, device)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Regress the velocity at one random time per image; the learning rate warms up, then falls along a cosine."""
        n = images.shape[0]
        for group in self.optimiser.param_groups:
            group["lr"] = self.choice.lr * min(1.0, self.progress / 0.02 + 0.02) * (0.5 + 0.5 * math.cos(math.pi * self.progress))
        target = images * 2 - 1
        noise = torch.randn_like(target)
        t = torch.randn(n, device=images.device).sigmoid()
        hidden = torch.rand(n, device=images.device) < self.choice.label_dropout
        labels = torch.where(hidden, self.n_classes, labels)
        x = torch.lerp(noise, target, t[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(self.velocity(x, t, labels), target - noise)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.velocity.parameters(), 1.0)
        self.optimiser.step()
        return {"loss": loss.detach(), "grad_norm": norm}

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.sampler

    def _parts(self) -> dict[str, Any]:
        return {"velocity": self.velocity, "optimiser": self.optimiser}


def _groups(channels: int) -> int:
    return math.gcd(8, channels)
