"""DCGAN: strided and transposed convolutions with batch normalisation.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", ICLR 2016.
Two stabilising tricks stand beside the paper's recipe, each switched off by 0: one-sided label smoothing (Salimans et
al. 2016) and Gaussian noise on the discriminator's inputs that fades as training goes on (Arjovsky and Bottou 2017).
Unconditional: the generator ignores its labels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Variant
from lekhani.variants.losses import discriminator_loss, non_saturating_loss
from lekhani.variants.nets import channels_last


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] (ignored) -> images float32 [N,1,H,W] in [0,1]."""

    def __init__(self, noise_dim: int, channels: int, image_size: int) -> None:
        super().__init__()
        doublings = 3 if image_size % 8 == 0 else 2
        self.start = image_size // 2**doublings
        self.widest = channels * 2 ** (doublings - 1)
        self.dense = nn.Linear(noise_dim, self.widest * self.start**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.widest), nn.ReLU(inplace=True)]
        width = self.widest
        for _ in range(doublings - 1):
            layers += [nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU(inplace=True)]
            width //= 2
        layers.append(nn.ConvTranspose2d(width, 1, 4, 2, 1))
        self.layers = nn.Sequential(*layers)
        self.apply(_normal)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class; tanh's range is moved to [0, 1]."""
        hidden = self.dense(noise).reshape(noise.shape[0], self.widest, self.start, self.start)
        return (torch.tanh(self.layers(hidden)) + 1) / 2


class Discriminator(nn.Module):
    """images float32 [N,1,H,W] in [-1,1] -> logits float32 [N]."""

    def __init__(self, channels: int, image_size: int) -> None:
        super().__init__()
        halvings = 3 if image_size % 8 == 0 else 2
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        width = channels
        for _ in range(halvings - 1):
            layers += [nn.Conv2d(width, width * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(width * 2), nn.LeakyReLU(0.2, inplace=True)]
            width *= 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (image_size // 2**halvings) ** 2, 1))
        self.apply(_normal)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.layers(images).squeeze(1)  # type: ignore[no-any-return]


def _normal(module: nn.Module) -> None:
    """The paper's initialisation: weights from N(0, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Dcgan(Variant):
    """See the module."""

    name = "dcgan"
    conditional = False

    def __init__(self, choice: params.Dcgan, image_size: int, device: torch.device) -> None:
        self.choice = choice
        self.noise_dim = choice.noise_dim
        self.g = channels_last(Generator(choice.noise_dim, choice.channels, image_size), device)
        self.d = channels_last(Discriminator(choice.channels, image_size), device)
        self.optimiser_g = torch.optim.Adam(self.g.parameters(), choice.lr_g, choice.betas, fused=True)
        self.optimiser_d = torch.optim.Adam(self.d.parameters(), choice.lr_d, choice.betas, fused=True)

    @classmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Dcgan":
        """See Variant.build."""
        return cls(choice.dcgan, image_size, device)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of each player; the fake batch that D learns from also teaches G, against the updated D."""
        noise = torch.randn(images.shape[0], self.noise_dim, device=images.device)
        fake = self.g(noise, labels) * 2 - 1
        sigma = self.choice.instance_noise * (1 - self.progress)

        real_logits = self.d(_blur(images * 2 - 1, sigma))
        fake_logits = self.d(_blur(fake.detach(), sigma))
        loss_d = discriminator_loss(real_logits, fake_logits, self.choice.label_smoothing)
        self.optimiser_d.zero_grad(set_to_none=True)
        loss_d.backward()  # type: ignore[no-untyped-call]
        self.optimiser_d.step()

        self.d.requires_grad_(False)  # G's step needs the gradient through D, not of D's weights
        loss_g = non_saturating_loss(self.d(_blur(fake, sigma)))
        self.optimiser_g.zero_grad(set_to_none=True)
        loss_g.backward()  # type: ignore[no-untyped-call]
        self.optimiser_g.step()
        self.d.requires_grad_(True)
        return {
            "loss_d": loss_d.detach(),
            "loss_g": loss_g.detach(),
            "accuracy_real": (real_logits > 0).float().mean(),
            "accuracy_fake": (fake_logits < 0).float().mean(),
        }

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.g

    def _parts(self) -> dict[str, Any]:
        return {"g": self.g, "d": self.d, "optimiser_g": self.optimiser_g, "optimiser_d": self.optimiser_d}


def _blur(images: Tensor, sigma: float) -> Tensor:
    return images + sigma * torch.randn_like(images) if sigma > 0 else images
