"""Textbook training loops: what tutorials show, for the networks and losses of our variants.

Eager float32 in torch's default memory format, Adam as it comes, a GAN's discriminator gradients computed in the
generator's step too, and `.item()` of every loss at every step.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lekhani import params
from lekhani.variants import Variant
from lekhani.variants.draw import Draw
from lekhani.variants.drifting import Drifting, drift
from lekhani.variants.flow_matching import FlowMatching
from lekhani.variants.gan import Gan
from lekhani.variants.losses import hinge
from lekhani.variants.turbo import FEATURE_TIME, MIN_CRITIC_TIME, Turbo

Step = Callable[[Tensor, Tensor], None]
Batches = Iterator[tuple[Tensor, Tensor]]


class Images(Dataset[tuple[Tensor, int]]):
    """One image at a time, as a tutorial reads them."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(self.images[index]).unsqueeze(0).float() / 255, int(self.labels[index])


def loaded(data: Any, batch_size: int, device: torch.device) -> Batches:
    """Endless batches of a DataLoader with two workers and a per-image transform."""
    while True:
        for images, labels in DataLoader(Images(*data), batch_size, shuffle=True, num_workers=2, drop_last=True):
            yield images.to(device), labels.to(device)


def resident(data: Any, batch_size: int, device: torch.device) -> Batches:
    """Endless random batches of data that lies on the device already, so that the steps alone are timed."""
    images, labels = (torch.from_numpy(array).to(device) for array in data)
    while True:
        chosen = torch.randint(len(images), (batch_size,), device=device)
        yield images[chosen].unsqueeze(1).float() / 255, labels[chosen]


def textbook(variant: Variant, batches: Batches) -> Iterator[None]:
    """Yields after every step."""
    steps: dict[Any, Callable[[Any], Step]] = {
        Gan: gan_step,
        Draw: draw_step,
        FlowMatching: flow_step,
        Turbo: turbo_step,
        Drifting: drifting_step,
    }
    step = next(make(variant) for kind, make in steps.items() if isinstance(variant, kind))
    for images, labels in batches:
        step(images, labels)
        yield


def comparable(choices: params.Variants) -> params.Variants:
    """Settings without what textbook steps do not have, or what would delay the steps to be timed."""
    changes: dict[str, dict[str, Any]] = {
        "dcgan": {"smoothing": "none", "instance_noise": 0.0},
        "turbo": {"pairs_per_class": min(20, choices.turbo.pairs_per_class)},
        "drifting": {"encoder_share": 0.0},
    }
    changed = {name: getattr(choices, name).model_copy(update=change) for name, change in changes.items()}
    return choices.model_copy(update=changed)


def fill(variant: Variant, data: Any, device: torch.device) -> None:
    """Give a drifting generator the real features of every class, without which it takes no step."""
    if isinstance(variant, Drifting):
        images, labels = (torch.from_numpy(array) for array in data)
        variant.encoder.eval()
        for label in labels.unique():  # type: ignore[no-untyped-call]
            mine = images[labels == label]
            rows = torch.arange(variant.settings.real_per_class) % len(mine)
            real = mine[rows].to(device).unsqueeze(1).float() / 255 * 2 - 1
            with torch.no_grad():
                variant.bank.put(variant.encoder.features(real), label.expand(len(rows)).to(device))


def gan_step(variant: Gan) -> Step:
    """The DCGAN tutorial's step with the variant's own losses; G moves at every step."""
    g, d, settings = variant.g, variant.d, variant.settings
    adam_g = torch.optim.Adam(g.parameters(), settings.lr_g, settings.betas)
    adam_d = torch.optim.Adam(d.parameters(), settings.lr_d, settings.betas)

    def step(images: Tensor, labels: Tensor) -> None:
        real = images * 2 - 1
        d.zero_grad()
        fake = g(torch.randn(len(images), settings.noise_dim, device=images.device), labels) * 2 - 1
        loss_d = variant.discriminator_loss(real, fake.detach(), labels).loss
        loss_d.backward()  # type: ignore[no-untyped-call]
        adam_d.step()
        g.zero_grad()
        loss_g = variant.generator_loss(real, fake, labels)
        loss_g.backward()  # type: ignore[no-untyped-call]
        adam_g.step()
        loss_d.item(), loss_g.item()

    return step


def draw_step(variant: Draw) -> Step:
    """The bound and Adam, nothing else."""
    settings, net = variant.settings, variant.autoencoder
    adam = torch.optim.Adam(net.parameters(), settings.lr, settings.betas)

    def step(images: Tensor, labels: Tensor) -> None:
        adam.zero_grad()
        noise = torch.randn(settings.steps, len(images), settings.latent_dim, device=images.device)
        reconstruction, kl = (part.mean() for part in net(torch.bernoulli(images), labels, noise))
        loss = reconstruction + kl
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
        adam.step()
        loss.item(), reconstruction.item(), kl.item()

    return step


def flow_step(variant: FlowMatching) -> Step:
    """The velocity's squared error and AdamW, without hidden labels."""
    settings, net = variant.settings, variant.velocity
    adam = torch.optim.AdamW(net.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay)

    def step(images: Tensor, labels: Tensor) -> None:
        adam.zero_grad()
        target, t = images * 2 - 1, torch.randn(len(images), device=images.device).sigmoid()
        noise = torch.randn_like(target)
        loss = F.mse_loss(net(torch.lerp(noise, target, t[:, None, None, None]), t, labels), target - noise)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        loss.item()

    return step


def turbo_step(variant: Turbo) -> Step:
    """Imitation of the teacher's pairs and a critic, with a pass of its own for every use of a network."""
    settings, student, critic = variant.settings, variant.student, variant.critic
    encoder = variant.teacher.velocity.encoder
    adam_g = torch.optim.Adam(student.parameters(), settings.lr, settings.betas)
    adam_c = torch.optim.Adam(critic.parameters(), settings.lr, settings.betas)
    variant.pairs.make(variant.teacher, settings.pairs_per_class, variant.n_classes, variant.noise_dim, nullcontext())

    def step(images: Tensor, labels: Tensor) -> None:
        real = images * 2 - 1
        noise, pair_labels, target = variant.pairs.draw(len(images))
        fake = student(noise, pair_labels) * 2 - 1
        t = MIN_CRITIC_TIME + (1 - MIN_CRITIC_TIME) * torch.rand(len(images), device=images.device)
        spoilt, share = torch.randn_like(real), t[:, None, None, None]
        critic.zero_grad()
        on_real = critic(torch.lerp(spoilt, real, share), t, labels)
        loss_c = hinge(on_real, critic(torch.lerp(spoilt, fake.detach(), share), t, pair_labels))
        loss_c.backward()  # type: ignore[no-untyped-call]
        adam_c.step()
        student.zero_grad()
        late = torch.full_like(t, FEATURE_TIME)
        seen, wanted = encoder(fake, late, pair_labels)[1], encoder(target, late, pair_labels)[1]
        features = sum(F.mse_loss(one, other) / other.var() for one, other in zip(seen, wanted, strict=True))
        score = critic(torch.lerp(spoilt, fake, share), t, pair_labels).mean()
        loss_g = F.mse_loss(fake, target) + features - settings.adversarial * score
        loss_g.backward()
        adam_g.step()
        loss_c.item(), loss_g.item()

    return step


def drifting_step(variant: Drifting) -> Step:
    """The generator's step, one pass over every feature; the encoder is as it is and gets no gradient."""
    settings, net, encoder, bank = variant.settings, variant.net, variant.encoder, variant.bank
    adam = torch.optim.AdamW(net.parameters(), settings.lr, settings.betas, weight_decay=settings.weight_decay)
    encoder.eval().requires_grad_(False)

    def step(images: Tensor, labels: Tensor) -> None:
        adam.zero_grad()
        with torch.no_grad():
            bank.put(encoder.features(images * 2 - 1), labels)
        classes, each = bank.full(), min(settings.generated_per_class, len(images))
        classes = classes[torch.randperm(len(classes), device=images.device)[: len(images) // each]]
        noise = torch.randn(len(classes) * each, settings.noise_dim, device=images.device)
        generated = encoder.features(net(noise, classes.repeat_interleave(each)) * 2 - 1)
        loss = torch.zeros((), device=images.device)
        for feature, real in zip(generated, bank.get(classes), strict=True):
            mine = feature.view(len(classes), each, *feature.shape[1:]).transpose(1, 2)
            unit = torch.cdist(mine, real).detach().mean() / feature.shape[-1] ** 0.5 + 1e-8
            goal = (mine / unit + drift((mine / unit).detach(), real / unit)[0]).detach()
            loss = loss + F.mse_loss(mine / unit, goal)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        adam.step()
        loss.item()

    return step
