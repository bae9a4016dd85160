"""Drifting: a generator of one step that learns without a teacher.

Deng, Li, Li, Du, He, "Generative Modeling via Drifting", 2026 (arXiv 2602.04770). Each step generates a few classes,
many images of each. In the features of a small encoder every generated image is drawn towards real images of its class
and pushed away from other generated ones; where the two balance, the distributions are equal. The generator regresses
its own features, moved that way. Over the first share of the budget the encoder learns to classify the real images; its
features are no judge's, since what is learned in a judge's features looks good to that judge.

Loss: E |f(x) - stop(f(x) + V(x))|^2, summed over features f of x = G(z, y), with V the drift.
"""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Variant
from lekhani.variants.nets import ResBlock, channels_last, group_norm
from lekhani.variants.optimise import any_of, cosine, optimise, set_lr, warm_up

TEMPERATURES = (0.02, 0.05, 0.2)  # in parts of the mean distance between generated and real features
PLACES = 4  # features of a convolution are compared at 4x4 places of the image
WHOLE = 16  # channels at the image's own size
MAX_SHIFT = 2  # pixels by which the encoder's train images are moved


class Encoder(nn.Module):
    """A classifier of three strided blocks, whose features are used.

    x float32 [N,1,H,W] in [-1,1] -> logits float32 [N, n_classes].
    """

    def __init__(self, n_classes: int, width: int, image_size: int) -> None:
        super().__init__()
        widths = (1, width, 2 * width, 4 * width)
        self.blocks = nn.ModuleList(
            nn.Sequential(*_convolution(c_in, c_out, 1), *_convolution(c_out, c_out, 2))
            for c_in, c_out in pairwise(widths)
        )
        side = math.ceil(image_size / 8)
        self.neck = nn.Linear(side**2 * widths[-1], 8 * width)
        self.head = nn.Linear(8 * width, n_classes)

    def features(self, x: Tensor) -> list[Tensor]:
        """Float32 [N, places, channels] each: of every block, of the neck, and pixels at half size and as they are."""
        found, h = [], x
        for block in self.blocks:
            h = block(h)
            found.append(F.adaptive_avg_pool2d(h, PLACES).flatten(2).transpose(1, 2))
        flat = [self.neck(h.flatten(1)), F.avg_pool2d(x, 2).flatten(1), x.flatten(1)]
        return [feature.float() for feature in (*found, *(one[:, None] for one in flat))]

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        neck = self.features(x)[len(self.blocks)][:, 0]
        return self.head(F.dropout(F.silu(neck), 0.3, self.training))  # type: ignore[no-any-return]


def _convolution(c_in: int, c_out: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.SiLU(inplace=True)


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1].

    Residual blocks from the coarsest resolution to half the image's side, then two convolutions at the whole of it.
    What is even before them stays even, where shuffled pixels would be free to alternate, which the encoder hardly sees
    (Odena et al., "Deconvolution and Checkerboard Artifacts", 2016). `channels` has one count per resolution, finest
    first.
    """

    def __init__(self, noise_dim: int, n_classes: int, channels: tuple[int, ...], image_size: int) -> None:
        super().__init__()
        self.sides = [image_size // 2]
        for _ in channels[1:]:
            self.sides.append((self.sides[-1] + 1) // 2)
        self.widest, embedding = channels[-1], 2 * channels[0]
        self.label = nn.Embedding(n_classes, embedding)
        self.mix = nn.Sequential(
            nn.Linear(noise_dim + embedding, 2 * embedding),
            nn.SiLU(),
            nn.Linear(2 * embedding, embedding),
            nn.SiLU(),
        )
        self.enter = nn.Linear(noise_dim + embedding, self.widest * self.sides[-1] ** 2)
        wide_to_narrow = [self.widest, *reversed(channels)]
        self.blocks = nn.ModuleList(ResBlock(c_in, c_out, embedding) for c_in, c_out in pairwise(wide_to_narrow))
        self.norm, self.leave = group_norm(channels[0]), nn.Conv2d(channels[0], WHOLE, 3, padding=1)
        self.join = nn.Conv2d(WHOLE, 1, 3, padding=1)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        both = torch.cat([noise, self.label(labels)], 1)
        embedding = self.mix(both)
        h = self.enter(both).reshape(noise.shape[0], self.widest, self.sides[-1], self.sides[-1])
        h = h.contiguous(memory_format=torch.channels_last)
        for block, side in zip(self.blocks, reversed(self.sides), strict=True):
            if h.shape[-1] != side:
                h = F.interpolate(h, size=(side, side), mode="nearest")
            h = block(h, embedding)
        whole = F.interpolate(F.silu(self.norm(h)), scale_factor=2.0, mode="nearest")
        return torch.sigmoid(2 * self.join(F.silu(self.leave(whole))).float())  # tanh, moved to [0, 1]


class Bank(nn.Module):
    """The features of the newest `size` real images of each class, as float16 [n_classes, size, places, channels]."""

    def __init__(self, like: list[Tensor], n_classes: int, size: int) -> None:
        super().__init__()
        self.size, self.n_features = size, len(like)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(n_classes, dtype=torch.long, device=like[0].device))
        for i, feature in enumerate(like):
            self.register_buffer(f"feature{i}", feature.new_zeros(n_classes, size, *feature.shape[1:]).half())

    def put(self, features: list[Tensor], labels: Tensor) -> None:
        """Let features [N, places, channels] of `labels` int64 [N] take the place of the oldest of their class."""
        order = labels.argsort(stable=True)
        n = labels.bincount(minlength=len(self.count))
        of_class = labels[order]
        number = torch.arange(len(labels), device=labels.device) - (n.cumsum(0) - n)[of_class]  # within the class
        fits = n[of_class] - number <= self.size
        place = (self.count[of_class] + number) % self.size
        for i, feature in enumerate(features):
            self.get_buffer(f"feature{i}")[of_class[fits], place[fits]] = feature[order[fits]].half()
        self.count += n

    def full(self) -> Tensor:
        """The classes, int64 [n], of which there are `size` images."""
        return (self.count >= self.size).nonzero()[:, 0]

    def get(self, classes: Tensor) -> list[Tensor]:
        """Float32 [classes, places, size, channels] of each feature."""
        return [self.get_buffer(f"feature{i}")[classes].float().transpose(1, 2) for i in range(self.n_features)]


class Drifting(Variant):
    """See the module."""

    name = "drifting"
    conditional = True

    def __init__(self, settings: params.Drifting, image_size: int, n_classes: int, device: torch.device) -> None:
        self.settings = settings
        self.noise_dim = settings.noise_dim
        self.net = channels_last(Generator(settings.noise_dim, n_classes, settings.channels, image_size), device)
        self.encoder = channels_last(Encoder(n_classes, settings.encoder_width, image_size), device)
        self.optimiser = self._adam(self.net)
        self.optimiser_encoder = self._adam(self.encoder)
        with torch.no_grad():
            like = self.encoder.eval().features(torch.zeros(1, 1, image_size, image_size, device=device))
        self.bank = Bank(like, n_classes, settings.real_per_class)

    def _adam(self, network: nn.Module) -> torch.optim.Optimizer:
        how = self.settings
        return torch.optim.AdamW(network.parameters(), how.lr, how.betas, weight_decay=how.weight_decay, fused=True)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the encoder, or, once its share of the budget is spent, one of the generator. See Variant.step.

        The generator writes as many images as it is given; those given refresh the real features.
        """
        share = self.settings.encoder_share
        real = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        zero = torch.zeros((), device=images.device)
        metrics = {"loss_encoder": zero, "loss": zero, "drift": zero, "grad_norm": zero}
        if self.progress < share:
            return metrics | self._encoder_step(real, labels, self.progress / share)
        self.encoder.eval().requires_grad_(False)
        with torch.no_grad(), self.autocast:
            self.bank.put(self.encoder.features(real), labels)
        classes = self.bank.full()
        if any_of(not len(classes), classes.device):  # processes that train together begin with the same step
            return metrics
        per_class = min(self.settings.generated_per_class, len(images))
        chosen = classes[torch.randperm(len(classes), device=classes.device)[: len(images) // per_class]]
        return metrics | self._generator_step(chosen, len(images) // len(chosen), (self.progress - share) / (1 - share))

    def _encoder_step(self, real: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
        """Cross entropy with smoothed labels, on images moved by some pixels."""
        self.encoder.train()
        set_lr(self.optimiser_encoder, 3 * self.settings.lr * warm_up(progress) * cosine(progress))
        shift = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (2,)).tolist()
        moved = torch.roll(real, shift, (-2, -1)).contiguous(memory_format=torch.channels_last)
        with self.autocast:
            logits = self.encoder(moved)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        optimise(loss, self.optimiser_encoder)
        return {"loss_encoder": loss.detach()}

    def _generator_step(self, classes: Tensor, per_class: int, progress: float) -> dict[str, Tensor]:
        """Regress the features of `per_class` generated images of each of `classes`, moved by the drift."""
        set_lr(self.optimiser, self.settings.lr * warm_up(progress) * min(1.0, 2 * cosine(progress, floor=0.01)))
        noise = torch.randn(len(classes) * per_class, self.noise_dim, device=classes.device)
        with self.autocast:
            generated = self.encoder.features(self.net(noise, classes.repeat_interleave(per_class)) * 2 - 1)
        loss = moved = torch.zeros((), device=classes.device)
        for feature, real in zip(generated, self.bank.get(classes), strict=True):
            by_class = feature.view(len(classes), per_class, *feature.shape[1:]).transpose(1, 2)
            with torch.no_grad():
                unit = torch.cdist(by_class, real).mean() / math.sqrt(feature.shape[-1]) + 1e-8
                direction, strength = drift(by_class / unit, real / unit)
                goal = by_class / unit + direction
            loss = loss + F.mse_loss(by_class / unit, goal)
            moved = moved + strength
        norm = optimise(loss, self.optimiser, max_norm=2.0)
        return {"loss": loss.detach(), "drift": moved / len(generated), "grad_norm": norm}

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.net

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.net,
            "encoder": self.encoder,
            "bank": self.bank,
            "optimiser": self.optimiser,
            "optimiser_encoder": self.optimiser_encoder,
        }


def drift(generated: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Where generated features [..., G, D] are to move, given real ones [..., R, D]; and how far, a scalar.

    Distances between the two are about sqrt(D) on average. Weights exp(-distance / temperature), normalised over both
    axes (geometric mean of the two), say how much each image draws or pushes. The move of each temperature is scaled to
    1 in root mean square; how far it was before, their mean, falls as the two sets become alike.
    """
    to_real, to_generated = torch.cdist(generated, real), torch.cdist(generated, generated)
    itself = torch.eye(generated.shape[-2], device=generated.device, dtype=torch.bool)
    distances = torch.cat([to_real, to_generated.masked_fill(itself, 1e6)], -1) / math.sqrt(generated.shape[-1])
    moves, strengths = torch.zeros_like(generated), []
    for temperature in TEMPERATURES:
        logits = -distances / temperature
        weights = (logits.softmax(-1) * logits.softmax(-2)).clamp(min=1e-12).sqrt()
        pull, push = weights[..., : real.shape[-2]], weights[..., real.shape[-2] :]
        move = (pull * push.sum(-1, keepdim=True)) @ real - (push * pull.sum(-1, keepdim=True)) @ generated
        strength = move.square().mean().sqrt()
        moves += move / (strength + 1e-8)
        strengths.append(strength)
    return moves, torch.stack(strengths).mean()
