"""R3GAN: each generated image is compared with a real one, and the discriminator's gradient is penalised at both.

Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is dead; long live the GAN! A Modern GAN Baseline", NeurIPS 2024. With
f(t) = log(1 + exp(-t)) and pairs of a real image x and a generated one x',

    L_D = E[f(D(x) - D(x'))] + gamma/2 E[|grad D(x)|^2] + gamma/2 E[|grad D(x')|^2],   L_G = E[f(D(x') - D(x))].

Networks without normalisation: residual blocks of 1x1, grouped 3x3 and 1x1 convolutions whose last weight starts at
zero (Zhang et al., "Fixup Initialization", 2019). What differs here: blocks go up to half the image's side, with one
strided convolution to and from the image, and widths that double where the resolution halves; images end in a tanh;
resampling by bilinear filters and means; a logit that does not depend on the class beside the paper's projection, since
with few images no class is seen often.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.gan import DiscriminatorLoss, Gan
from lekhani.variants.losses import squared_gradient_norm
from lekhani.variants.nets import Projection, pyramid

EXPANSION = 2
GROUP = 16
LEAK = 0.2


class Block(nn.Module):
    """The paper's inverted residual bottleneck: wider, and grouped, in its middle. [N,C,h,w] -> [N,C,h,w].

    `depth` is the number of such blocks in the network: the more there are, the smaller each starts.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.expand = nn.Conv2d(width, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=max(1, inner // GROUP))
        self.shrink = nn.Conv2d(inner, width, 1, bias=False)
        for layer in (self.expand, self.mix):
            nn.init.kaiming_normal_(layer.weight, LEAK)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            with torch.no_grad():
                layer.weight *= depth**-0.25
        nn.init.zeros_(self.shrink.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.mix(F.leaky_relu(self.expand(x), LEAK)), LEAK)
        return x + self.shrink(hidden)  # type: ignore[no-any-return]


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1]."""

    def __init__(self, settings: params.R3gan, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.start, widths = pyramid(image_size, settings.channels)
        self.label = nn.Embedding(n_classes, settings.noise_dim)
        # Small beside the noise, which G would soon ignore without normalisation.
        nn.init.normal_(self.label.weight, std=0.1)
        self.dense = _linear(nn.Linear(2 * settings.noise_dim, widths[0] * self.start**2, bias=False))
        self.stages = nn.ModuleList(_stage(width, settings.blocks, len(widths)) for width in widths)
        self.narrow = nn.ModuleList(
            _linear(nn.Conv2d(wide, narrow, 1, bias=False)) for wide, narrow in pairwise(widths)
        )
        self.leave = nn.ConvTranspose2d(widths[-1], 1, 4, 2, 1)
        nn.init.normal_(self.leave.weight, std=(4 * widths[-1]) ** -0.5)  # four taps of each channel meet in a pixel

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class; tanh's range is moved to [0, 1]."""
        x = self.dense(torch.cat([noise, self.label(labels)], 1))
        x = self.stages[0](x.reshape(noise.shape[0], -1, self.start, self.start))
        for narrow, stage in zip(self.narrow, self.stages[1:], strict=True):
            size = (2 * x.shape[2], 2 * x.shape[3])
            x = stage(F.interpolate(narrow(x), size=size, mode="bilinear"))
        return (torch.tanh(self.leave(x)) + 1) / 2


class Discriminator(nn.Module):
    """images float32 [N,1,H,W] in [-1,1], labels int64 [N] -> logits float32 [N]; only their differences matter."""

    def __init__(self, settings: params.R3gan, image_size: int, n_classes: int) -> None:
        super().__init__()
        start, widths = pyramid(image_size, settings.channels)
        widths = widths[::-1]
        layers: list[nn.Module] = [_linear(nn.Conv2d(1, widths[0], 4, 2, 1))]
        for narrow, wide in pairwise(widths):
            layers += [
                _stage(narrow, settings.blocks, len(widths)),
                nn.AvgPool2d(2),
                _linear(nn.Conv2d(narrow, wide, 1, bias=False)),
            ]
        layers.append(_stage(widths[-1], settings.blocks, len(widths)))
        layers += [_linear(nn.Conv2d(widths[-1], widths[-1], start, groups=widths[-1], bias=False)), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        self.head = Projection(widths[-1], n_classes)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.layers(images), labels)  # type: ignore[no-any-return]


class R3gan(Gan):
    name = "r3gan"
    conditional = True
    settings: params.R3gan

    def __init__(self, settings: params.R3gan, image_size: int, n_classes: int, device: torch.device) -> None:
        g, d = Generator(settings, image_size, n_classes), Discriminator(settings, image_size, n_classes)
        super().__init__(settings, g, d, device)

    def networks(self) -> list[nn.Module]:
        """See Variant.networks; not D, since a compiled network has no second derivative, which the penalty needs."""
        return [self.g]

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        """See Gan.discriminator_loss; the penalties are taken on images as D sees them, so after augmentation."""
        both = (
            torch.cat([real, fake]).detach().requires_grad_()
        )  # one batch: half the launches, and D has no statistics
        logits = self.d(both, labels.repeat(2))
        on_real, on_fake = logits.reshape(2, -1)
        r1, r2 = squared_gradient_norm(logits, both).reshape(2, -1).mean(1)
        loss = F.softplus(on_fake - on_real).mean() + self.settings.gamma / 2 * (r1 + r2)
        middle = (on_real + on_fake).detach().mean() / 2  # logits have no zero of their own
        return DiscriminatorLoss(loss, on_real - middle, on_fake - middle, {"r1": r1.detach(), "r2": r2.detach()})

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """The relativistic loss with the roles exchanged."""
        return F.softplus(self.d(real, labels) - self.d(fake, labels)).mean()


def _stage(width: int, blocks: int, stages: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width, blocks * stages) for _ in range(blocks)))


def _linear(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Start a layer that no activation follows so that it keeps the variance."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
