"""CGAN: a fully connected GAN whose two networks get the label beside their input.

Mirza and Osindero, "Conditional Generative Adversarial Nets", 2014, in the Keras form of the recipe. Generator: z of
100 beside a Dense(100) of the one-hot label - 256 - 512 - 1024 - H*W tanh, each hidden layer followed by leaky ReLU of
0.2 and then BatchNorm. Discriminator: the image beside a Dense(H*W) of the label - 512 - 256 - 1, leaky ReLU of 0.2.
With y the label of a real image x they minimise

    L_D = -E[log D(x, y)] - E[log(1 - D(G(z, y), y))]        L_G = -E[log D(G(z, y), y)]  (non-saturating)

A Dense layer on a one-hot label picks a row of its weights and adds its bias, so here it is an `nn.Embedding`: exactly
such a layer without a bias. The bias would be the same for all labels and goes into another linear layer, which has one
already; a row and a bias together can express no more than the row alone. Keras' choices elsewhere are kept:
Glorot-uniform weights, zero biases, BatchNorm's momentum of 0.8 (torch counts it from the other end: 0.2) and epsilon
of 1e-3.

Different from the recipe: the generator learns from the very images that the discriminator learned from, with the
labels of the real batch, instead of fresh noise and labels drawn evenly; the discriminator takes one step on real and
generated images together; Adam's epsilon is torch's 1e-8; an exponential moving average of the generator is exported;
and a batch of one image, which has no variance, is normalised by the running statistics.
"""

import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.gan import DiscriminatorLoss, Gan
from lekhani.variants.losses import cross_entropy
from lekhani.variants.nets import BatchNorm1d

LABEL_DIM = 100


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]."""

    def __init__(self, noise_dim: int, n_classes: int, width: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.label = nn.Embedding(n_classes, LABEL_DIM)
        layers: list[nn.Module] = []
        n_in = noise_dim + LABEL_DIM
        for n_out in (width, 2 * width, 4 * width):
            layers += [
                nn.Linear(n_in, n_out),
                nn.LeakyReLU(0.2, inplace=True),
                BatchNorm1d(n_out, eps=1e-3, momentum=0.2),
            ]
            n_in = n_out
        self.layers = nn.Sequential(*layers, nn.Linear(n_in, image_size**2))
        self.apply(_glorot)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class; tanh's range is moved to [0, 1]."""
        images = (torch.tanh(self.layers(torch.cat([noise, self.label(labels)], 1))) + 1) / 2
        return images.reshape(noise.shape[0], 1, self.image_size, self.image_size)


class Discriminator(nn.Module):
    """images float32 [N,1,H,W] in [-1,1], labels int64 [N] -> logits float32 [N]."""

    def __init__(self, n_classes: int, width: int, image_size: int) -> None:
        super().__init__()
        self.label = nn.Embedding(n_classes, image_size**2)
        self.layers = nn.Sequential(
            nn.Linear(2 * image_size**2, 2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(2 * width, width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Linear(width, 1),
        )
        self.apply(_glorot)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.layers(torch.cat([images.flatten(1), self.label(labels)], 1)).squeeze(1)  # type: ignore[no-any-return]


def _glorot(module: nn.Module) -> None:
    """Keras' initialisation: U(-a, a) with a^2 = 6 / (fan_in + fan_out), and zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.xavier_uniform_(module.weight)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class Cgan(Gan):
    name = "cgan"
    conditional = True

    def __init__(self, settings: params.Cgan, image_size: int, n_classes: int, device: torch.device) -> None:
        g = Generator(settings.noise_dim, n_classes, settings.width, image_size)
        super().__init__(settings, g, Discriminator(n_classes, settings.width, image_size), device)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        on_real, on_fake = self.d(real, labels), self.d(fake, labels)
        loss = cross_entropy(on_real, torch.ones_like(on_real)) + cross_entropy(on_fake, torch.zeros_like(on_fake))
        return DiscriminatorLoss(loss, on_real, on_fake)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """See Gan.generator_loss; -E[log D(G(z, y), y)]."""
        on_fake = self.d(fake, labels)
        return cross_entropy(on_fake, torch.ones_like(on_fake))
