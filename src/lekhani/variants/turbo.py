"""Turbo: a student that makes in one step what its teacher, a trained flow_matching, makes in many.

The student is the teacher's network and sampler with one step (or two) and no guidance; it starts from the teacher's weights and learns
from two sides. Pairs: the teacher draws images x from noise z once, and the student is to come to the same image from the same noise,
in pixels and in the features f of the teacher's encoder, which keeps every letter the teacher knows (Luhman and Luhman, "Knowledge
Distillation in Iterative Generative Models", 2021). A critic: the teacher's encoder with a head per resolution tells real from
generated images, both with noise mixed in, which makes them sharp (Sauer et al., "Adversarial Diffusion Distillation" and "Fast
High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation", 2024).

Loss: E |G(z, y) - x|^2 + E |f(G(z, y)) - f(x)|^2 / Var f(x) - a E C(G(z, y), y); the critic's is the hinge loss.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Variant
from lekhani.variants.flow_matching import Encoder, Sampler, Velocity
from lekhani.variants.nets import channels_last
from lekhani.variants.optimise import cosine, descend, set_rate, warm_up

NEARLY_CLEAN = 0.9  # the time at which the teacher's features compare two images
VEILED = 0.4  # the earliest time at which the critic sees an image


class Critic(nn.Module):
    """The teacher's encoder with a head per resolution: x float32 [N,1,H,W] in [-1,1], t float32 [N], labels int64 [N] -> logits [N, resolutions]."""

    def __init__(self, encoder: Encoder, channels: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(math.gcd(8, c), c),
                nn.SiLU(),
                nn.Conv2d(c, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, 1, 1),
            )
            for c in channels
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        _, features = self.encoder(x, t, labels)
        return torch.stack([head(f).mean((1, 2, 3)) for head, f in zip(self.heads, features, strict=True)], 1)


class Turbo(Variant):
    """See the module."""

    name = "turbo"
    conditional = True
    teacher = "flow_matching"

    def __init__(
        self, choice: params.Turbo, taught: params.FlowMatching, image_size: int, n_classes: int, device: torch.device
    ) -> None:
        self.choice = choice
        self.n_classes = n_classes
        self.noise_dim = image_size**2

        def sampler(how: params.FlowMatching) -> Sampler:
            return Sampler(
                channels_last(Velocity(n_classes, how.channels, how.blocks), device), image_size, n_classes, how
            )

        self.master = sampler(taught).requires_grad_(False)
        self.student = sampler(taught.model_copy(update={"steps": choice.steps, "solver": "euler", "guidance": 1.0}))
        self.critic = channels_last(Critic(self.master.velocity.encoder, taught.channels).requires_grad_(True), device)
        self.optimiser_g = torch.optim.Adam(self.student.parameters(), choice.lr, choice.betas, fused=True)
        self.optimiser_c = torch.optim.Adam(self.critic.parameters(), choice.lr, choice.betas, fused=True)
        self.pairs = _Pairs()

    @classmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Turbo":
        """See Variant.build; the networks are as large as flow_matching's."""
        return cls(choice.turbo, choice.flow_matching, image_size, n_classes, device)

    def learn_from(self, teacher: nn.Module) -> None:
        """See Variant.learn_from; student and critic begin as the teacher."""
        self.master.load_state_dict(teacher.state_dict())
        self.student.load_state_dict(self.master.state_dict())
        self.critic.encoder.load_state_dict(self.master.velocity.encoder.state_dict())

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the critic on real images and of the student on pairs; rates warm up, then fall along a cosine to a tenth."""
        if not len(self.pairs):
            self.pairs.make(self.master, self.choice.pairs_per_class, self.n_classes, self.noise_dim)
        share = warm_up(self.progress) * cosine(self.progress, floor=0.1)
        for optimiser in (self.optimiser_g, self.optimiser_c):
            set_rate(optimiser, self.choice.lr * share)
        noise, asked, wanted = self.pairs.draw(images.shape[0])
        with self.autocast:
            fake = _last(self.student(noise, asked) * 2 - 1)
        told = self._teach_critic(_last(images * 2 - 1), labels, fake.detach(), asked)
        self.critic.requires_grad_(False)  # the student needs the gradient through the critic, not of its weights
        with self.autocast:
            pixels, features = F.mse_loss(fake, wanted), self._feature_loss(fake, wanted, asked)
            t, veil = self._veil(fake)
            loss = pixels + features - self.choice.adversarial * self.critic(_mixed(fake, t, veil), t, asked).mean()
        norm = descend(loss, self.optimiser_g, max_norm=10.0)
        self.critic.requires_grad_(True)
        return {
            "loss_g": loss.detach(),
            "pixels": pixels.detach(),
            "features": features.detach(),
            "grad_norm_g": norm,
            **told,
        }

    def _teach_critic(self, real: Tensor, labels: Tensor, fake: Tensor, asked: Tensor) -> dict[str, Tensor]:
        """The critic's step: real images above 1, generated ones below -1, each pair behind the same veil."""
        t, veil = self._veil(real)
        with self.autocast:
            x = torch.cat([_mixed(real, t, veil), _mixed(fake, t, veil)])
            logits = self.critic(x, torch.cat([t, t]), torch.cat([labels, asked]))
            on_real, on_fake = logits[: len(real)], logits[len(real) :]
            loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        descend(loss, self.optimiser_c)
        accuracies = {"accuracy_real": (on_real > 0).float().mean(), "accuracy_fake": (on_fake < 0).float().mean()}
        return {"loss_d": loss.detach(), **accuracies, "logit_gap": (on_real - on_fake).detach().float().mean()}

    def _feature_loss(self, fake: Tensor, wanted: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the teacher's features at every resolution, as a share of their variance."""
        encoder, t = self.master.velocity.encoder, torch.full_like(labels, NEARLY_CLEAN, dtype=torch.float32)
        with torch.no_grad():
            _, theirs = encoder(wanted, t, labels)
        _, mine = encoder(fake, t, labels)
        return torch.stack([F.mse_loss(m, f) / f.var() for m, f in zip(mine, theirs, strict=True)]).sum()

    def _veil(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """How far each image stands out of the noise that it is mixed with, float32 [N] from VEILED to 1, and that noise."""
        return VEILED + (1 - VEILED) * torch.rand(images.shape[0], device=images.device), torch.randn_like(images)

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.student

    def _parts(self) -> dict[str, Any]:
        return {
            "student": self.student.velocity,
            "critic": self.critic,
            "optimiser_g": self.optimiser_g,
            "optimiser_c": self.optimiser_c,
            "master": self.master.velocity,
        }


class _Pairs:
    """What the teacher drew: noise float16 [n, noise_dim], labels int64 [n], images float16 [n,1,H,W] in [-1,1].

    Drawn from the run's seed in a stream of their own, so that a run that goes on draws the same again and checkpoints stay small.
    """

    def __init__(self) -> None:
        self.held: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.held.get("labels", ()))

    @torch.no_grad()
    def make(self, teacher: Sampler, per_class: int, n_classes: int, noise_dim: int) -> None:
        """Ask the teacher for images, equally many of each class."""
        device = next(teacher.parameters()).device
        labels = torch.arange(n_classes, device=device).repeat(per_class)
        stream = torch.Generator(device).manual_seed(torch.initial_seed() + 1)
        noise = torch.randn(len(labels), noise_dim, device=device, generator=stream).half()
        some = [slice(start, start + 256) for start in range(0, len(labels), 256)]
        images = [teacher(noise[rows].float(), labels[rows]).mul(2).sub(1).half() for rows in some]
        self.held = {"noise": noise, "labels": labels, "images": torch.cat(images)}

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise float32, labels and images float32 of `n` random pairs."""
        chosen = torch.randint(len(self), (n,), device=self.held["labels"].device)
        return (
            self.held["noise"][chosen].float(),
            self.held["labels"][chosen],
            _last(self.held["images"][chosen].float()),
        )


def _last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _mixed(images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Images on the teacher's straight path between noise and image, where its encoder feels at home."""
    return _last(torch.lerp(noise, images, t[:, None, None, None]))
