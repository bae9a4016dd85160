"""Turbo: a student that does in one step what its teacher, a trained flow_matching, does in many.

The student is the teacher's network and sampler with one step (or two) and no guidance. It starts from the teacher's
weights and has two losses. Imitation: the teacher makes images x from noise z once, and the student is to make the same
image from the same noise, in pixels and in the features f of the teacher's encoder, which preserves all classes (Luhman
and Luhman, "Knowledge Distillation in Iterative Generative Models", 2021). A critic: the teacher's encoder with a head
per resolution tells real from generated images, both with noise mixed in, which makes them sharp (Sauer et al.,
"Adversarial Diffusion Distillation" and "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion
Distillation", 2024).

Loss: E |G(z, y) - x|^2 + E |f(G(z, y)) - f(x)|^2 / Var f(x) - a E C(G(z, y), y); the critic's is the hinge loss.
"""

import copy
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Variant
from lekhani.variants.flow_matching import Encoder, Sampler, Velocity
from lekhani.variants.gan import discrimination
from lekhani.variants.losses import hinge
from lekhani.variants.nets import channels_last, group_norm
from lekhani.variants.optimise import cosine, optimise, set_lr, warm_up

FEATURE_TIME = 0.9  # the time at which the teacher's features compare two images
MIN_CRITIC_TIME = 0.4  # the earliest, so noisiest, time at which the critic sees an image


class Critic(nn.Module):
    """The teacher's encoder with a head per resolution.

    x float32 [N,1,H,W] in [-1,1], t float32 [N], labels int64 [N] -> logits float32 [N, resolutions].
    """

    def __init__(self, encoder: Encoder, channels: tuple[int, ...], width: int = 64) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.heads = nn.ModuleList(
            nn.Sequential(
                group_norm(c),
                nn.SiLU(),
                nn.Conv2d(c, width, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(width, 1, 1),
            )
            for c in channels
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        _, features = self.encoder(x, t, labels)
        return torch.stack([head(f).mean((1, 2, 3)) for head, f in zip(self.heads, features, strict=True)], 1)


class Turbo(Variant):
    name = "turbo"
    conditional = True
    capturable = True

    def __init__(
        self,
        settings: params.Turbo,
        image_size: int,
        n_classes: int,
        device: torch.device,
        teacher: params.FlowMatching,
    ) -> None:
        self.settings = settings
        self.n_classes = n_classes
        self.noise_dim = image_size**2

        def sampler(how: params.FlowMatching) -> Sampler:
            velocity = channels_last(Velocity(n_classes, how.channels, how.blocks), device)
            return Sampler(velocity, image_size, n_classes, how)

        self.teacher = sampler(teacher).requires_grad_(False)
        self.student = sampler(teacher.model_copy(update={"steps": settings.steps, "solver": "euler", "guidance": 1.0}))
        critic = Critic(self.teacher.velocity.encoder, teacher.channels).requires_grad_(True)
        self.critic = channels_last(critic, device)
        self.optimiser_g = torch.optim.Adam(self.student.parameters(), settings.lr, settings.betas, fused=True)
        self.optimiser_c = torch.optim.Adam(self.critic.parameters(), settings.lr, settings.betas, fused=True)
        self.pairs = _Pairs()

    @classmethod
    def build(cls, settings: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Turbo":
        """See Variant.build; the networks are as large as the teacher's."""
        return cls(settings.turbo, image_size, n_classes, device, settings.flow_matching)

    def learn_from(self, teacher: nn.Module) -> None:
        """See Variant.learn_from; student and critic start with the teacher's weights."""
        self.teacher.load_state_dict(teacher.state_dict())
        self.student.load_state_dict(self.teacher.state_dict())
        self.critic.encoder.load_state_dict(self.teacher.velocity.encoder.state_dict())

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the critic on real images and of the student on pairs. See Variant.step.

        Learning rates warm up, then fall along a cosine to a tenth.
        """
        if not len(self.pairs):
            self.pairs.make(self.teacher, self.settings.pairs_per_class, self.n_classes, self.noise_dim, self.autocast)
        lr = self.settings.lr * warm_up(self.progress) * cosine(self.progress, floor=0.1)
        for optimiser in (self.optimiser_g, self.optimiser_c):
            set_lr(optimiser, lr)
        return self.run(self._update, images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        noise, pair_labels, target = self.pairs.draw(images.shape[0])
        with self.autocast:
            fake = _channels_last(self.student(noise, pair_labels) * 2 - 1)
        critic_metrics = self._critic_step(_channels_last(images * 2 - 1), labels, fake.detach(), pair_labels)
        return self._student_step(fake, target, pair_labels) | critic_metrics

    def _student_step(self, fake: Tensor, target: Tensor, labels: Tensor) -> dict[str, Tensor]:
        self.critic.requires_grad_(False)  # the gradient through the critic is needed, not that of its weights
        with self.autocast:
            pixels, features = F.mse_loss(fake, target), self._feature_loss(fake, target, labels)
            t, noise = _critic_noise(fake)
            score = self.critic(_noisy(fake, t, noise), t, labels).mean()
            loss = pixels + features - self.settings.adversarial * score
        norm = optimise(loss, self.optimiser_g, max_norm=10.0)
        self.critic.requires_grad_(True)
        return {
            "loss_g": loss.detach(),
            "pixels": pixels.detach(),
            "features": features.detach(),
            "grad_norm_g": norm,
        }

    def _critic_step(self, real: Tensor, labels: Tensor, fake: Tensor, fake_labels: Tensor) -> dict[str, Tensor]:
        """The hinge loss; each pair of a real and a generated image gets the same noise."""
        t, noise = _critic_noise(real)
        with self.autocast:
            x = torch.cat([_noisy(real, t, noise), _noisy(fake, t, noise)])
            logits = self.critic(x, torch.cat([t, t]), torch.cat([labels, fake_labels]))
            on_real, on_fake = logits[: len(real)], logits[len(real) :]
            loss = hinge(on_real, on_fake)
        optimise(loss, self.optimiser_c)
        return {"loss_d": loss.detach(), **discrimination(on_real, on_fake)}

    def _feature_loss(self, fake: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the teacher's features at every resolution, as a share of their variance; a scalar."""
        encoder, t = self.teacher.velocity.encoder, torch.full_like(labels, FEATURE_TIME, dtype=torch.float32)
        with torch.no_grad():
            _, wanted = encoder(target, t, labels)
        _, found = encoder(fake, t, labels)
        return torch.stack(
            [F.mse_loss(one, other) / other.var() for one, other in zip(found, wanted, strict=True)]
        ).sum()

    def generator(self) -> nn.Module:
        return self.student

    def _parts(self) -> dict[str, Any]:
        return {
            "student": self.student.velocity,
            "critic": self.critic,
            "optimiser_g": self.optimiser_g,
            "optimiser_c": self.optimiser_c,
            "teacher": self.teacher.velocity,
        }


class _Pairs:
    """The teacher's images: noise float16 [n, noise_dim], labels int64 [n], images float16 [n,1,H,W] in [-1,1].

    Made from the run's seed with a random generator of their own, so that a resumed run makes the same again and
    checkpoints stay small.
    """

    def __init__(self) -> None:
        self.data: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.data.get("labels", ()))

    @torch.no_grad()
    def make(
        self, teacher: Sampler, per_class: int, n_classes: int, noise_dim: int, autocast: AbstractContextManager[Any]
    ) -> None:
        """Generate `per_class` pairs of each class with the teacher."""
        device = next(teacher.parameters()).device
        labels = torch.arange(n_classes, device=device).repeat(per_class)
        random = torch.Generator(device).manual_seed(torch.initial_seed() + 1)
        noise = torch.randn(len(labels), noise_dim, device=device, generator=random).half()
        batches = zip(torch.split(noise, 256), torch.split(labels, 256), strict=True)
        with autocast:
            images = [teacher(some_noise.float(), some).mul(2).sub(1).half() for some_noise, some in batches]
        self.data = {"noise": noise, "labels": labels, "images": torch.cat(images)}

    def draw(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noise float32 [n, noise_dim], labels int64 [n] and images float32 [n,1,H,W] of random pairs."""
        chosen = torch.randint(len(self), (n,), device=self.data["labels"].device)
        noise, labels, images = (self.data[name][chosen] for name in ("noise", "labels", "images"))
        return noise.float(), labels, _channels_last(images.float())


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _critic_noise(images: Tensor) -> tuple[Tensor, Tensor]:
    """The time of each image [N,1,H,W] on the path from noise to image, float32 [N] below 1, and the noise of each."""
    t = MIN_CRITIC_TIME + (1 - MIN_CRITIC_TIME) * torch.rand(images.shape[0], device=images.device)
    return t, torch.randn_like(images)


def _noisy(images: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Images at time t on the teacher's straight path from noise to image, where its encoder was trained."""
    return _channels_last(torch.lerp(noise, images, t[:, None, None, None]))
