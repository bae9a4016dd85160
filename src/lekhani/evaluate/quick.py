"""A cheap score while training goes on: judge FID on a few hundred images, and what the diagnosis needs."""

import numpy as np
import torch
from torch import Tensor, nn

from lekhani.data.spec import Bytes, Labels
from lekhani.evaluate.frechet import Doubles, frechet, moments, spread
from lekhani.evaluate.judge import JudgeNet
from lekhani.variants.base import Variant

_REAL = 2000  # real images to compare with: their covariance is settled by then


class QuickScore:
    """Call it with a variant and its generator on `device`; the noise is always the same, from a stream of its own.

    Returns `judge_fid`; `classes_covered`, the share of the K classes that the judge predicts among the images;
    `judge_entropy`, of its mean probabilities in nats, log K when all classes come equally often; `label_agreement` for
    a conditional generator; `class_diversity`, the spread of the features within a class in parts of what real images
    have.
    """

    def __init__(
        self, judge: JudgeNet, real: tuple[Bytes, Labels], n_classes: int, count: int, seed: int, device: torch.device
    ) -> None:
        self.judge, self.n_classes, self.seed, self.device = judge.eval().to(device), n_classes, seed, device
        rows = np.random.default_rng([seed, 4]).permutation(len(real[0]))[:_REAL]
        images = torch.from_numpy(real[0][rows]).unsqueeze(1).float().div_(255)
        self.labels = torch.arange(count) % n_classes
        features, _ = self._read(images)
        self.real = moments(features)
        self.spread = _spread_within(features, real[1][rows])

    @torch.no_grad()
    def __call__(self, variant: Variant, generator: nn.Module) -> dict[str, float]:
        noise = torch.randn(len(self.labels), variant.noise_dim, generator=torch.Generator().manual_seed(self.seed + 4))
        batches = zip(torch.split(noise, 128), torch.split(self.labels, 128), strict=True)
        images = [generator(z.to(self.device), y.to(self.device)).float().cpu() for z, y in batches]
        features, logits = self._read(torch.cat(images))
        predicted = logits.argmax(1).numpy()
        mean = torch.softmax(logits.double(), 1).mean(0)
        labels = self.labels.numpy() if variant.conditional else predicted
        agreement = {"label_agreement": float((predicted == labels).mean())} if variant.conditional else {}
        return {
            "judge_fid": frechet(*self.real, *moments(features)),
            "classes_covered": len(np.unique(predicted)) / self.n_classes,
            "judge_entropy": float(torch.special.entr(mean).sum()),
            "class_diversity": _spread_within(features, labels) / max(self.spread, 1e-12),
            **agreement,
        }

    @torch.no_grad()
    def _read(self, images: Tensor) -> tuple[Doubles, Tensor]:
        parts = [self.judge(batch.to(self.device)) for batch in torch.split(images, 256)]
        return torch.cat([p[0] for p in parts]).double().cpu().numpy(), torch.cat([p[1] for p in parts]).float().cpu()


def _spread_within(features: Doubles, labels: Labels) -> float:
    """The spread of a class, as the root of the mean square over classes."""
    groups = [features[labels == label] for label in np.unique(labels)]
    spreads = [spread(group) ** 2 for group in groups if len(group) > 1]
    return float(np.sqrt(np.mean(spreads))) if spreads else 0.0
