"""SNGAN: every layer of the discriminator has spectral norm 1, and labels enter it as a projection.

Miyato, Kataoka, Koyama and Yoshida, "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, with the
projection discriminator and the conditional batch normalisation of Miyato and Koyama, "cGANs with Projection
Discriminator", ICLR 2018. D minimises the hinge loss E[max(0, 1 - D(x, y))] + E[max(0, 1 + D(G(z, y), y))] and G
-E[D(G(z, y), y)], where D(x, y) = w f(x) + b + <v_y, f(x)> and f(x) are the last features.

`residual` blocks are the papers' ResNet, `plain` ones their "standard CNN". What differs here: f(x) keeps features
where they are, as the standard CNN does, while the ResNet sums them over the image: small networks tell glyphs apart by
where features are. Blocks go up to half the image's side, with one strided convolution to and from the image, and
widths double where the resolution halves, as in the authors' networks for larger images.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lekhani import params
from lekhani.variants.gan import DiscriminatorLoss, Gan
from lekhani.variants.losses import hinge
from lekhani.variants.nets import Projection, pyramid


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift are looked up by label. [N,C,h,w], labels int64 [N] -> [N,C,h,w]."""

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.scale, self.shift = nn.Embedding(n_classes, width), nn.Embedding(n_classes, width)
        # Classes start apart: from equal rows, as in the paper, the label takes thousands of steps to matter.
        nn.init.normal_(self.scale.weight, 1.0, 0.3)
        nn.init.normal_(self.shift.weight, 0.0, 0.3)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.norm(x) * self.scale(labels)[:, :, None, None] + self.shift(labels)[:, :, None, None]  # type: ignore[no-any-return]


class ResidualUp(nn.Module):
    """Two 3x3 convolutions at twice the resolution beside a 1x1 one. [N,c_in,h,w] -> [N,c_out,2h,2w]."""

    def __init__(self, c_in: int, c_out: int, n_classes: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(c_in, n_classes), ConditionalNorm(c_out, n_classes)
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        size = (2 * x.shape[2], 2 * x.shape[3])
        hidden = self.conv1(F.interpolate(F.relu(self.norm1(x, labels)), size=size, mode="nearest"))
        hidden = self.conv2(F.relu(self.norm2(hidden, labels)))
        return F.interpolate(self.skip(x), size=size, mode="nearest") + hidden  # type: ignore[no-any-return]


class PlainUp(nn.Module):
    """One transposed convolution. [N,c_in,h,w] -> [N,c_out,2h,2w]."""

    def __init__(self, c_in: int, c_out: int, n_classes: int) -> None:
        super().__init__()
        self.norm = ConditionalNorm(c_in, n_classes)
        self.conv = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.conv(F.relu(self.norm(x, labels)))  # type: ignore[no-any-return]


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]."""

    def __init__(self, settings: params.Sngan, image_size: int, n_classes: int) -> None:
        super().__init__()
        block = {"residual": ResidualUp, "plain": PlainUp}[settings.blocks]
        self.start, widths = pyramid(image_size, settings.channels)
        self.dense = nn.Linear(settings.noise_dim, widths[0] * self.start**2)
        self.blocks = nn.ModuleList(block(wide, narrow, n_classes) for wide, narrow in pairwise(widths))
        self.leave = nn.Sequential(
            nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True), nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1)
        )
        self.apply(_xavier)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class; tanh's range is moved to [0, 1]."""
        x = self.dense(noise).reshape(noise.shape[0], -1, self.start, self.start)
        for block in self.blocks:
            x = block(x, labels)
        return (torch.tanh(self.leave(x)) + 1) / 2


class ResidualDown(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one. [N,c_in,h,w] -> [N,c_out,h,w], or by 2x2 means half as large."""

    def __init__(self, c_in: int, c_out: int, shrink: bool) -> None:
        super().__init__()
        self.shrink = shrink
        self.conv1, self.conv2 = nn.Conv2d(c_in, c_in, 3, padding=1), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv2(F.relu(self.conv1(F.relu(x))))
        if not self.shrink:
            return self.skip(x) + hidden  # type: ignore[no-any-return]
        # A 1x1 convolution and a mean may change places; this order is cheaper.
        return self.skip(F.avg_pool2d(x, 2)) + F.avg_pool2d(hidden, 2)  # type: ignore[no-any-return]


class PlainDown(nn.Sequential):
    """A 3x3 convolution, before it a strided one if `shrink`. [N,c_in,h,w] -> [N,c_out,h,w], or half as large."""

    def __init__(self, c_in: int, c_out: int, shrink: bool) -> None:
        layers: list[nn.Module] = [nn.LeakyReLU(0.1)]
        if shrink:
            layers += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.LeakyReLU(0.1, inplace=True)]
        super().__init__(*layers, nn.Conv2d(c_out if shrink else c_in, c_out, 3, padding=1))


class Discriminator(nn.Module):
    """images float32 [N,1,H,W] in [-1,1], labels int64 [N] -> logits float32 [N]; all layers have spectral norm 1."""

    def __init__(self, settings: params.Sngan, image_size: int, n_classes: int) -> None:
        super().__init__()
        block = {"residual": ResidualDown, "plain": PlainDown}[settings.blocks]
        start, widths = pyramid(image_size, settings.channels)
        widths = widths[::-1]
        down = (block(narrow, wide, True) for narrow, wide in pairwise(widths))
        self.blocks = nn.Sequential(nn.Conv2d(1, widths[0], 4, 2, 1), *down, block(widths[-1], widths[-1], False))
        self.head = Projection(widths[-1] * start**2, n_classes)
        self.apply(_xavier)
        self.apply(_spectral)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(images)).flatten(1), labels)  # type: ignore[no-any-return]


class Sngan(Gan):
    name = "sngan"
    conditional = True

    def __init__(self, settings: params.Sngan, image_size: int, n_classes: int, device: torch.device) -> None:
        g, d = Generator(settings, image_size, n_classes), Discriminator(settings, image_size, n_classes)
        super().__init__(settings, g, d, device)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        """See Gan.discriminator_loss; both halves in one batch, which normalises D's weights once."""
        n = real.shape[0]
        logits = self.d(torch.cat([real, fake]), torch.cat([labels, labels]))
        on_real, on_fake = logits[:n], logits[n:]
        return DiscriminatorLoss(hinge(on_real, on_fake), on_real, on_fake)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """-E[D(G(z, y), y)]."""
        return -self.d(fake, labels).mean()  # type: ignore[no-any-return]


def _xavier(module: nn.Module) -> None:
    """The authors' initialisation; a convolution beside a skip starts larger by the root of two."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        inside = isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.kernel_size != (1, 1)
        nn.init.xavier_uniform_(module.weight, 2**0.5 if inside else 1.0)
        nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def _spectral(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
        spectral_norm(module)
