"""DCGAN: strided and transposed convolutions with batch normalisation, and a switch for each stabilising trick.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR 2016. The tricks:
the non-saturating loss (Goodfellow et al. 2014), inverted labels, random label smoothing on one or both sides (Salimans
et al. 2016), Gaussian noise on the discriminator's inputs that fades as training goes on (Arjovsky and Bottou 2017),
and gradient clipping. Unconditional: the generator ignores its labels.

    L_D = E[CE(D(x + n), t)] + E[CE(D(G(z)), 0)]        L_G = E[CE(D(G(z)), 1)], or -E[CE(D(G(z)), 0)] for `minimax`

CE is the cross entropy of a logit and a target, t ~ U(0.9, 1) and n ~ N(0, sigma^2) with a sigma that falls to 0 over
the budget. `profile: full` has the settings of the project that this variant follows: Adam with 1e-4 for D and 2e-4 for
G, batches of 128, noise on real images alone, gradients clipped at norm 1; its 100 epochs of 78,200 images are a
`budget` of 0.65. Different from it: G learns from the images that D has just learned from, an exponential moving
average of G is exported, and the paper's initialisation and layer sizes are used. `profile: quick` learns faster and
adds the noise to generated images too, so that D cannot tell by the noise.
"""

import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.gan import DiscriminatorLoss, Gan
from lekhani.variants.losses import cross_entropy
from lekhani.variants.nets import DcganGenerator, normal_init


class Discriminator(nn.Module):
    """images float32 [N,1,H,W] in [-1,1] -> logits float32 [N]."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        halvings = 3 if image_size % 8 == 0 else 2
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        width = channels
        for _ in range(halvings - 1):
            layers += [
                nn.Conv2d(width, width * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width * 2),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (image_size // 2**halvings) ** 2, 1))
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)  # type: ignore[no-any-return]


class Dcgan(Gan):
    name = "dcgan"
    conditional = False
    settings: params.Dcgan

    def __init__(self, settings: params.Dcgan, image_size: int, n_classes: int, device: torch.device) -> None:
        g = DcganGenerator(settings.noise_dim, settings.channels, image_size)
        super().__init__(settings, g, Discriminator(settings.channels, image_size), device)
        # Deviation of the noise: a tensor, so that a CUDA graph sees it change.
        self.sigma = torch.tensor(float(settings.instance_noise), device=device)

    def schedule(self) -> None:
        """See Gan.schedule; the noise fades."""
        super().schedule()
        self.sigma.fill_(self.settings.instance_noise * (1 - self.progress))

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        on_real, on_fake = self.d(self._noisy(real)), self.d(self._noisy_fake(fake))
        loss = cross_entropy(on_real, self._target(on_real, 1.0)) + cross_entropy(on_fake, self._target(on_fake, 0.0))
        return DiscriminatorLoss(loss, self._sign * on_real, self._sign * on_fake)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """-E[log D(G(z))], or the minimax game's own E[log(1 - D(G(z)))]."""
        on_fake = self._sign * self.d(self._noisy_fake(fake))
        if self.settings.loss == "minimax":
            return -cross_entropy(on_fake, torch.zeros_like(on_fake))
        return cross_entropy(on_fake, torch.ones_like(on_fake))

    @property
    def _sign(self) -> int:
        return -1 if self.settings.inverted_labels else 1

    def _target(self, logits: Tensor, real: float) -> Tensor:
        """Targets for images that are real (1) or generated (0), smoothed and inverted as chosen."""
        smooth = self.settings.smoothing == "two_sided" or (self.settings.smoothing == "one_sided" and real == 1)
        slack = torch.rand_like(logits) * self.settings.smoothing_width if smooth else torch.zeros_like(logits)
        target = (slack - real).abs()
        return 1 - target if self.settings.inverted_labels else target

    def _noisy(self, images: Tensor) -> Tensor:
        return images + self.sigma * torch.randn_like(images) if self.settings.instance_noise else images

    def _noisy_fake(self, images: Tensor) -> Tensor:
        return self._noisy(images) if self.settings.noise_on == "both" else images
