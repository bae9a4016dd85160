"""Flow matching: a U-Net learns the velocity that carries noise to an image along a straight line.

Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, in the rectified form of Liu et al., "Flow Straight
and Fast", ICLR 2023: x_t = (1 - t) noise + t image, and the network regresses image - noise. Times are logit-normal
(Esser et al. 2024), so that most of the effort goes to the middle of the path. Labels are hidden now and then, which
allows classifier-free guidance (Ho and Salimans 2021), on the whole path or on a part of it (Kynkaanniemi et al. 2024).
The generator is the whole sampler: a few steps of Euler or Heun, unrolled. Loss: E |v(x_t, t, y) - (image - noise)|^2.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Stepwise, Variant
from lekhani.variants.nets import ResBlock, channels_last, group_norm
from lekhani.variants.optimise import cosine, optimise, set_lr, warm_up


class Blocks(nn.ModuleList):
    """Residual blocks at one resolution, `count` of them."""

    def __init__(self, count: int, c_in: int, c_out: int, embedding: int) -> None:
        blocks = [ResBlock(c_in if i == 0 else c_out, c_out, embedding) for i in range(count)]
        for block in blocks:
            nn.init.zeros_(block.conv2.weight)  # each one starts as the identity
        super().__init__(blocks)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """See ResBlock."""
        for block in self:
            x = block(x, embedding)
        return x


class Encoder(nn.Module):
    """The way down: x float32 [N,1,H,W], t float32 [N], labels int64 [N] -> embedding [N,E] and features.

    Features are [N,C,h,w] per resolution, finest first.
    """

    def __init__(self, n_classes: int, channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
        super().__init__()
        embedding = 4 * channels[0]
        self.time = nn.Sequential(nn.Linear(2 * channels[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(n_classes + 1, embedding)
        self.enter = nn.Conv2d(4, channels[0], 3, padding=1)
        self.down = nn.ModuleList(Blocks(n, c, c, embedding) for n, c in zip(blocks, channels, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in pairwise(channels))
        self.frequencies: Tensor
        self.register_buffer(
            "frequencies", torch.exp(torch.linspace(0.0, math.log(1000.0), channels[0])), persistent=False
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See the class."""
        angles = t[:, None] * self.frequencies
        embedding = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(labels))
        h = self.enter(F.pixel_unshuffle(x, 2))
        features = [self.down[0](h, embedding)]
        for block, shrink in zip(self.down[1:], self.shrink, strict=True):
            features.append(block(shrink(features[-1]), embedding))
        return embedding, features


class Velocity(nn.Module):
    """U-Net on the image unshuffled to half its size.

    x float32 [N,1,H,W], t float32 [N], labels int64 [N] -> velocity [N,1,H,W].
    Label `n_classes` asks for the unconditional velocity. `blocks` is one count for all resolutions, or one for each.
    """

    def __init__(self, n_classes: int, channels: tuple[int, ...], blocks: int | tuple[int, ...] = 1) -> None:
        super().__init__()
        if isinstance(blocks, int):
            blocks = (blocks,) * len(channels)
        self.encoder = Encoder(n_classes, channels, blocks)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(
            Blocks(n, 2 * c, c, 4 * channels[0]) for n, c in zip(blocks[:-1], channels[:-1], strict=True)
        )
        self.norm = group_norm(channels[0])
        self.leave = nn.Conv2d(channels[0], 4, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        embedding, (*skips, h) = self.encoder(x, t, labels)
        for block, grow in zip(reversed(self.up), reversed(self.grow), strict=True):
            skip = skips.pop()
            h = grow(F.interpolate(h, size=skip.shape[-2:], mode="nearest"))
            h = block(torch.cat([h, skip], 1), embedding)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), 2)


class Sampler(Stepwise):
    """Solver steps from noise at t=0 to an image at t=1.

    noise float32 [N, H*W], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]. When guidance is not 1, a step that
    starts inside its interval is guided, at twice the cost. Heun's last step is Euler's: the order stays, and the
    network is not evaluated at t=1, which is outside of what it was trained on.
    """

    def __init__(self, velocity: Velocity, image_size: int, n_classes: int, settings: params.FlowMatching) -> None:
        super().__init__()
        self.velocity = velocity
        self.image_size, self.n_classes = image_size, n_classes
        self.steps, self.heun = settings.steps, settings.solver == "heun"
        self.guidance, self.interval = settings.guidance, (settings.guidance_from, settings.guidance_to)

    def begin(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See Stepwise."""
        return noise.reshape(noise.shape[0], 1, self.image_size, self.image_size)

    def move(self, step: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """See Stepwise: four kinds of step, Euler's and Heun's with guidance and without."""
        guided = self.guidance != 1 and self.interval[0] <= step / self.steps < self.interval[1]
        if self.heun and step < self.steps - 1:
            return self.advance_heun if guided else self.advance_heun_unguided
        return self.advance if guided else self.advance_unguided

    def advance(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """See Stepwise; Euler's step with guidance."""
        return state + self._guided(state, position, labels) / self.steps

    def advance_unguided(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """The same without."""
        return state + self._cond(state, position, labels) / self.steps

    def advance_heun(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """Heun's step with guidance: Euler's, and once more with the mean of the velocities at both its ends."""
        return self._heun(self._guided, state, position, labels)

    def advance_heun_unguided(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """The same without."""
        return self._heun(self._cond, state, position, labels)

    def _heun(
        self, velocity: Callable[[Tensor, Tensor, Tensor], Tensor], state: Tensor, position: Tensor, labels: Tensor
    ) -> Tensor:
        first = velocity(state, position, labels)
        second = velocity(state + first / self.steps, position + 1 / self.steps, labels)
        return state + (first + second) / (2 * self.steps)

    def _cond(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        return self.velocity(state, position.expand(state.shape[0]), labels)  # type: ignore[no-any-return]

    def _guided(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        n = state.shape[0]
        both = torch.cat([labels, torch.full_like(labels, self.n_classes)])
        velocity = self.velocity(torch.cat([state, state]), position.expand(2 * n), both)
        # In ONNX two constant indices, where slices would have bounds that depend on n.
        cond, uncond = velocity.unflatten(0, (2, -1))
        return uncond + self.guidance * (cond - uncond)  # type: ignore[no-any-return]

    def finish(self, state: Tensor) -> Tensor:
        """See Stepwise."""
        return (state.clamp(-1, 1) + 1) / 2


class FlowMatching(Variant):
    """See the module."""

    name = "flow_matching"
    conditional = True
    capturable = True

    def __init__(self, settings: params.FlowMatching, image_size: int, n_classes: int, device: torch.device) -> None:
        self.settings = settings
        self.n_classes = n_classes
        self.noise_dim = image_size**2
        self.velocity = channels_last(Velocity(n_classes, settings.channels, settings.blocks), device)
        self.sampler = Sampler(self.velocity, image_size, n_classes, settings)
        self.optimiser = torch.optim.AdamW(
            self.velocity.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay, fused=True
        )

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Regress the velocity at one random time per image; the learning rate warms up, then falls along a cosine."""
        set_lr(self.optimiser, self.settings.lr * warm_up(self.progress) * cosine(self.progress))
        return self.run(self._update, images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        target = images * 2 - 1
        noise = torch.randn_like(target)
        t = torch.randn(images.shape[0], device=images.device).sigmoid()
        return self._regress(target, noise, t, labels)

    def _regress(self, target: Tensor, noise: Tensor, t: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Regress the velocity towards `target` [N,1,H,W] in [-1,1] at times `t` [N], some of the labels hidden."""
        hidden = torch.rand(t.shape[0], device=t.device) < self.settings.label_dropout
        labels = torch.where(hidden, self.n_classes, labels)
        x = torch.lerp(noise, target, t[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        with self.autocast:
            velocity = self.velocity(x, t, labels)
        loss = F.mse_loss(velocity.float(), target - noise)
        norm = optimise(loss, self.optimiser, max_norm=1.0)
        return {"loss": loss.detach(), "grad_norm": norm}

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.sampler

    def _parts(self) -> dict[str, Any]:
        return {"velocity": self.velocity, "optimiser": self.optimiser}
