"""Ways to train that were measured against the variants of the package and not taken; see recipe.py."""

import math

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.drifting import Drifting
from lekhani.variants.flow_matching import FlowMatching, Velocity
from lekhani.variants.optimise import cosine, optimise, set_lr, warm_up
from lekhani.variants.turbo import Turbo

LATEST = 0.95  # the time from which the division by 1 - t goes no further
CRITIC_FROM = 0.5  # the share of a training after which the late critic begins
SEEN_FROM = 0.2  # the time from which pixel MeanFlow compares features


class ChangedFlow(FlowMatching):
    """flow_matching with one thing changed: "uniform times", "OT coupling", "augmentation" or "image prediction"."""

    def __init__(self, settings: params.FlowMatching, n_classes: int, change: str) -> None:
        super().__init__(settings, 32, n_classes, torch.device("cpu"))
        self.change = change
        if change == "image prediction":
            self.sampler.velocity = self.velocity = ImagePrediction(self.velocity)

    def _update(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        n = images.shape[0]
        target = (moved(images) if self.change == "augmentation" else images) * 2 - 1
        noise = torch.randn_like(target)
        if self.change == "OT coupling":
            noise = coupled(noise, target, labels)
        t = torch.rand(n) if self.change == "uniform times" else torch.randn(n).sigmoid()
        return self._regress(target, noise, t, labels)


class ImagePrediction(nn.Module):
    """The U-Net predicts the image, from which follows the velocity; the loss stays on the velocity.

    Li and He, "Back to Basics: Let Denoising Generative Models Denoise", 2025.
    """

    def __init__(self, network: Velocity) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """See Velocity."""
        return (self.network(x, t, labels).float() - x) / (1 - t.clamp(max=LATEST))[:, None, None, None]


def moved(images: Tensor) -> Tensor:
    """Images [N,1,H,W] in [0,1], each turned by up to 4 degrees and shifted by up to a pixel, both at random."""
    n, side = len(images), images.shape[-1]
    angle, shift = (torch.rand(n) * 2 - 1) * math.radians(4), (torch.rand(n, 2) * 2 - 1) * 2 / side
    rows = [angle.cos(), -angle.sin(), shift[:, 0], angle.sin(), angle.cos(), shift[:, 1]]
    places = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, places, align_corners=False)


def coupled(noise: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """The noise in another order, so that within each label the squared distances to the targets add up to least.

    Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2024.
    """
    order = torch.arange(len(labels))
    for label in labels.unique():
        mine = (labels == label).nonzero()[:, 0]
        distances = torch.cdist(target[mine].flatten(1), noise[mine].flatten(1)).square()
        order[mine] = mine[torch.from_numpy(linear_sum_assignment(distances.numpy())[1])]
    return noise[order]


class LateTurbo(Turbo):
    """turbo, whose critic begins when half of the training is over."""

    def _update(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.progress >= CRITIC_FROM:
            return super()._update(images, labels)
        noise, pair_labels, target = self.pairs.draw(len(images))
        with self.autocast:
            fake = (self.student(noise, pair_labels) * 2 - 1).contiguous(memory_format=torch.channels_last)
            loss = F.mse_loss(fake, target) + self._feature_loss(fake, target, pair_labels)
        optimise(loss, self.optimiser_g, max_norm=10.0)
        return {"loss_g": loss.detach()}


class LabelAndSpan(nn.Module):
    """The embedding of a label, and of how far a step goes: (labels int64 [N], span float32 [N]) -> [N, width]."""

    def __init__(self, label: nn.Embedding) -> None:
        super().__init__()
        self.label, width = label, label.embedding_dim
        self.span = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, asked: tuple[Tensor, Tensor]) -> Tensor:
        """See the class."""
        return self.label(asked[0]) + self.span(asked[1][:, None])


class OneStep(nn.Module):
    """noise float32 [N, H*W], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]: the average velocity, once."""

    def __init__(self, velocity: ImagePrediction) -> None:
        super().__init__()
        self.velocity = velocity

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class."""
        x, zero = noise.view(-1, 1, 32, 32), torch.zeros(len(noise))
        return ((x + self.velocity(x, zero, (labels, zero + 1))).clamp(-1, 1) + 1) / 2


class MeanFlow(FlowMatching):
    """Pixel MeanFlow: one network learns the average velocity u(x_t, t, s) between two times, and a step from 0 to 1.

    Geng et al., "Mean Flows for One-step Generative Modeling", 2025: u = v + (s - t) du/dt, where du/dt goes along the
    velocity v, guided as it is learned. Lu et al., "One-step Latent-free Image Generation with Pixel Mean Flows", 2026:
    the network predicts an image, the loss is one of velocities, and features of the image are compared as well, here
    in an encoder as drifting has it.
    """

    def __init__(
        self, settings: params.FlowMatching, drifting: params.Drifting, n_classes: int, guidance: float, features: float
    ) -> None:
        super().__init__(settings, 32, n_classes, torch.device("cpu"))
        self.guidance, self.features = guidance, features
        encoder = self.velocity.encoder
        encoder.label = LabelAndSpan(encoder.label)
        encoder.frequencies /= 50  # what changes fast with the time has large derivatives
        self.optimiser.add_param_group({"params": encoder.label.span.parameters()})
        # Not channels-last, where group_norm has no derivative along a tangent.
        self.velocity = ImagePrediction(self.velocity.to(memory_format=torch.contiguous_format))
        self.sampler = OneStep(self.velocity)
        self.encoder = Drifting(drifting, 32, n_classes, torch.device("cpu"))

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the encoder in its share of the training, then of the network."""
        target = (images * 2 - 1).contiguous(memory_format=torch.channels_last)
        share = self.encoder.settings.encoder_share if self.features else 0.0
        if self.progress < share:
            self.encoder.autocast = self.autocast
            return self.encoder._encoder_step(target, labels, self.progress / share)
        self.encoder.encoder.eval().requires_grad_(False)
        progress = (self.progress - share) / (1 - share)
        set_lr(self.optimiser, self.settings.lr * warm_up(progress) * cosine(progress))

        n = len(images)
        noise = torch.randn_like(target)
        t, s = (torch.randn(2, n) * 1.5).sigmoid().sort(0).values
        s = torch.where(torch.arange(n) < n // 2, s, t)  # the other half learns the velocity itself
        x = torch.lerp(noise, target, t[:, None, None, None]).contiguous()
        hidden = torch.rand(n) < self.settings.label_dropout
        nothing, zero = torch.full_like(labels, self.n_classes), torch.zeros(n)
        labels = torch.where(hidden, nothing, labels)
        with torch.no_grad(), self.autocast:
            uncond = self.velocity(x, t, (nothing, zero)).float()
        guidance = torch.where(hidden, 1.0, self.guidance)[:, None, None, None]
        velocity = uncond + guidance * (target - noise - uncond)

        with self.autocast:
            average = self.velocity(x, t, (labels, s - t)).float()
        some = slice(n // 2)

        def along(x: Tensor, t: Tensor) -> Tensor:
            return self.velocity(x, t, (labels[some], s[some] - t))

        with torch.no_grad():
            _, change = torch.func.jvp(along, (x[some], t[some]), (velocity[some], torch.ones(n // 2)))
        wanted = velocity.clone()
        wanted[some] += ((s - t)[some, None, None, None] * change).clamp(-10, 10)
        error = (average - wanted).square().mean((1, 2, 3))
        loss = (error / (error.detach() + 1e-3)).mean()
        if self.features:
            predicted = x + (1 - t)[:, None, None, None] * average
            seen = (t > SEEN_FROM).nonzero()[:, 0]
            with self.autocast:
                found = self.encoder.encoder.features(predicted[seen])[:4]
                with torch.no_grad():
                    there = self.encoder.encoder.features(target[seen])[:4]
            loss = loss + self.features * sum(
                F.mse_loss(one, other) / other.var() for one, other in zip(found, there, strict=True)
            )
        norm = optimise(loss, self.optimiser, max_norm=1.0)
        return {"loss": loss.detach(), "grad_norm": norm}
