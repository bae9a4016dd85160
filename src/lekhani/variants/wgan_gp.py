"""WGAN-GP: a critic of slope one estimates how far generated images are from real ones, which the generator lowers.

Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, "Improved Training of Wasserstein GANs", NeurIPS 2017. The critic
minimises

    E[D(fake)] - E[D(real)] + lambda E[(|grad D(x)| - 1)^2],  x = e real + (1 - e) fake,  e ~ U(0, 1) per image,

and the generator -E[D(fake)]. The critic has no normalisation, since the penalty is on each image alone; it is the
authors' network for MNIST. The generator is DCGAN's, which is their baseline. Unconditional: labels are ignored.
"""

import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.gan import DiscriminatorLoss, Gan
from lekhani.variants.losses import squared_gradient_norm
from lekhani.variants.nets import DcganGenerator


class Critic(nn.Module):
    """images float32 [N,1,H,W] in [-1,1] -> scores float32 [N], higher for real; only their differences matter."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 1
        for wider in (channels, 2 * channels, 4 * channels):
            layers += [nn.Conv2d(width, wider, 5, 2, 2), nn.LeakyReLU(0.2, inplace=True)]
            width, image_size = wider, (image_size + 1) // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * image_size**2, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, 0.2 if isinstance(layer, nn.Conv2d) else 1.0)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)  # type: ignore[no-any-return]


class WganGp(Gan):
    name = "wgan_gp"
    conditional = False
    settings: params.WganGp

    def __init__(self, settings: params.WganGp, image_size: int, n_classes: int, device: torch.device) -> None:
        g = DcganGenerator(settings.noise_dim, settings.channels, image_size)
        super().__init__(settings, g, Critic(settings.channels, image_size), device)

    def networks(self) -> list[nn.Module]:
        """See Variant.networks; not D, since a compiled network has no second derivative, which the penalty needs."""
        return [self.g]

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> DiscriminatorLoss:
        """See Gan.discriminator_loss.

        Of its metrics, `distance` is the critic's estimate of the Wasserstein distance, and `slope` should stay near 1.
        """
        on_real, on_fake = self.d(real), self.d(fake)
        between = torch.lerp(fake, real, torch.rand(real.shape[0], 1, 1, 1, device=real.device)).requires_grad_()
        # The floor keeps the root's gradient finite where D is flat.
        slope = squared_gradient_norm(self.d(between), between).clamp_min(1e-12).sqrt()
        distance = on_real.mean() - on_fake.mean()
        loss = -distance + self.settings.gp_weight * (slope - 1).square().mean()
        middle = (on_real + on_fake).detach().mean() / 2  # scores have no zero of their own
        metrics = {"distance": distance.detach(), "slope": slope.detach().mean()}
        return DiscriminatorLoss(loss, on_real - middle, on_fake - middle, metrics)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        """-E[D(fake)]."""
        return -self.d(fake).mean()  # type: ignore[no-any-return]
