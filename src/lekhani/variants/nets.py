"""Building blocks of more than one network."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation of [N,C] that allows N = 1 in training: by running statistics, as one row has no variance."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class; the running statistics stay as they are when N is 1."""
        if self.training and x.shape[0] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class DcganGenerator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] (ignored) -> images float32 [N,1,H,W] in [0,1].

    The generator of dcgan and wgan_gp.
    """

    def __init__(self, noise_dim: int, channels: int, image_size: int) -> None:
        super().__init__()
        doublings = 3 if image_size % 8 == 0 else 2
        self.start = image_size // 2**doublings
        self.widest = channels * 2 ** (doublings - 1)
        self.dense = nn.Linear(noise_dim, self.widest * self.start**2, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.widest), nn.ReLU(inplace=True)]
        width = self.widest
        for _ in range(doublings - 1):
            layers += [
                nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(inplace=True),
            ]
            width //= 2
        layers.append(nn.ConvTranspose2d(width, 1, 4, 2, 1))
        self.layers = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See the class; tanh's range is moved to [0, 1]."""
        hidden = self.dense(noise).reshape(noise.shape[0], self.widest, self.start, self.start)
        return (torch.tanh(self.layers(hidden)) + 1) / 2


def normal_init(module: nn.Module) -> None:
    """DCGAN's initialisation: weights from N(0, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation, scaled and shifted by an embedding (FiLM).

    [N,c_in,h,w] -> [N,c_out,h,w].
    """

    def __init__(self, c_in: int, c_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * c_out)
        self.norm2 = group_norm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.c_out = c_out

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """See the class; `embedding` float32 [N, embedding]."""
        film = self.film(embedding)[:, :, None, None]
        # Slices, not chunk: the ONNX exporter freezes the batch size at a chunk.
        scale, shift = film[:, : self.c_out], film[:, self.c_out :]
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden) * (1 + scale) + shift))
        return self.skip(x) + hidden  # type: ignore[no-any-return]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation in eight groups, or as many as divide `channels`."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Projection(nn.Module):
    """A conditional logit w f + b + <v_y, f>: features float32 [N, width], labels int64 [N] -> float32 [N].

    Miyato and Koyama, "cGANs with Projection Discriminator", ICLR 2018.
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.linear, self.label = nn.Linear(width, 1), nn.Embedding(n_classes, width)
        nn.init.normal_(self.linear.weight, std=width**-0.5)
        nn.init.zeros_(self.linear.bias)
        nn.init.normal_(self.label.weight, std=width**-0.5)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.linear(features).squeeze(1) + (self.label(labels) * features).sum(1)  # type: ignore[no-any-return]


def pyramid(image_size: int, channels: int) -> tuple[int, list[int]]:
    """The side of the coarsest feature map, 4 or 7 pixels for 32 and 28, and the widths from there up.

    The finest map has half the image's side, from where one strided convolution leads to the image, and `channels`
    channels; there are twice as many at each coarser resolution.
    """
    doublings = 2 if image_size % 8 == 0 else 1
    return image_size // 2 ** (doublings + 1), [channels * 2**k for k in range(doublings, -1, -1)]


def channels_last(network: Network, device: torch.device) -> Network:
    """Move a network to `device` with its weights in channels-last order, which convolutions run fastest in."""
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
