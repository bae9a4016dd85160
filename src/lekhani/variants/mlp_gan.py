"""A GAN of fully connected layers: batch normalisation in the generator, dropout in the discriminator.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, in the sizes of the widespread MNIST recipe: z - 256 -
512 - 1024 - H*W, each hidden layer followed by BatchNorm and ReLU, against H*W - 512 - 256 - 1 with leaky ReLU of 0.2
and dropout. With s the width of one-sided label smoothing (Salimans et al. 2016) they minimise

    L_D = E[CE(D(x), 1 - s)] + E[CE(D(G(z)), 0)]        L_G = E[CE(D(G(z)), 1)]  (non-saturating)

CE the cross entropy of a logit and a target. Spectral normalisation of the discriminator (Miyato et al. 2018) is
optional. Unconditional: the generator ignores its labels.

Different from the recipe: the generator learns from the very images that the discriminator learned from, not from a
second batch; an exponential moving average of its weights is exported; the sigmoid is part of the loss; and a last
batch of one image, which has no variance, is normalised by the running statistics instead of failing.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lekhani import params
from lekhani.variants.gan import DiscriminatorLoss, Gan
from lekhani.variants.losses import cross_entropy
from lekhani.variants.nets import BatchNorm1d


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] (ignored) -> images float32 [N,1,H,W] in [0,1]."""

    def __init__(self, noise_dim: int, width: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        layers: list[nn.Module] = []
        n_in = noise_dim
        for n_out in (width, 2 * width, 4 * width):
            layers += [nn.Linear(n_in, n_out), BatchNorm1d(n_out), nn.ReLU(inplace=True)]
            n_in = n_out
        self.layers = nn.Sequential(*layers, nn.Linear(n_in, image_size**2))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class; tanh's range is moved to [0, 1]."""
        images = (torch.tanh(self.layers(noise)) + 1) / 2
        return images.reshape(noise.shape[0], 1, self.image_size, self.image_size)


class Discriminator(nn.Module):
    """images float32 [N,1,H,W] in [-1,1] -> logits float32 [N]."""

    def __init__(self, width: int, image_size: int, dropout: float, spectral_norm: bool) -> None:
        super().__init__()

        def dense(n_in: int, n_out: int) -> nn.Module:
            layer = nn.Linear(n_in, n_out)
            return parametrizations.spectral_norm(layer) if spectral_norm else layer

        self.layers = nn.Sequential(
            nn.Flatten(),
            dense(image_size**2, 2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(dropout),
            dense(2 * width, width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Dropout(dropout),
            dense(width, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)  # type: ignore[no-any-return]


class MlpGan(Gan):
    name = "mlp_gan"
    conditional = False
    settings: params.MlpGan

    def __init__(self, settings: params.MlpGan, image_size: int, n_classes: int, device: torch.device) -> None:
        g = Generator(settings.noise_dim, settings.width, image_size)
        d = Discriminator(settings.width, image_size, settings.dropout, settings.spectral_norm)
        super().__init__(settings, g, d, device)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        on_real, on_fake = self.d(real), self.d(fake)
        targets = torch.full_like(on_real, 1 - self.settings.smoothing_width)
        loss = cross_entropy(on_real, targets) + cross_entropy(on_fake, torch.zeros_like(on_fake))
        return DiscriminatorLoss(loss, on_real, on_fake)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """See Gan.generator_loss; -E[log D(G(z))]."""
        on_fake = self.d(fake)
        return cross_entropy(on_fake, torch.ones_like(on_fake))
