"""DRAW: a recurrent variational autoencoder that paints a canvas in steps, looking and writing through a movable grid.

Gregor et al., "DRAW: A Recurrent Neural Network For Image Generation", ICML 2015. At each of T steps an LSTM reads the image
x and what the canvas c still lacks, x^ = x - s(c), and says q(z_t) = N(mu_t, sigma_t^2); another LSTM takes a sample z_t and
adds to the canvas. The loss is the paper's bound on -log p(x) in nats, for images binarised anew at each step:

    E[-log Bernoulli(x; s(c_T))] + 1/2 sum_t sum_z (mu^2 + sigma^2 - log sigma^2 - 1)

in which -1 stands for every z of every step (the paper's equation 11 prints T/2 for what is T times z's size, over 2). The attention is
the paper's, its pixels counted from 1 (equations 19 to 26): see `Grid`.

What differs: the canvas starts at the grey of nearly empty paper, s(-2), before its bias is learned; forget gates start open,
at a bias of 1; a label, where asked for, comes in as a learned addition to the gates of both LSTMs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Stepwise, Variant
from lekhani.variants.optimise import descend

Memory = tuple[Tensor, Tensor]
"""An LSTM's output and cell, both [N, hidden]."""


class Grid(nn.Module):
    """The paper's attention: n x n Gaussian filters over pictures of side x side pixels, placed by five numbers.

    `told` float32 [N,5] = (g~x, g~y, log sigma^2, log delta~, log gamma). With g = (side + 1) / 2 * (g~ + 1), delta = (side - 1) / (n - 1) * delta~
    and mu_i = g + (i - n/2 - 0.5) * delta for i = 1..n, filter i weighs pixel a = 1..side by exp(-(a - mu_i)^2 / (2 sigma^2)) / Z, where Z
    makes the weights of each filter sum to 1. That is a softmax, which needs no guard against a tiny Z: a filter far outside the picture
    keeps to the nearest edge, as it does in exact arithmetic. A grid of one filter has no stride.
    """

    def __init__(self, n: int, side: int) -> None:
        super().__init__()
        self.n, self.side = n, side
        self.pixels: Tensor
        self.places: Tensor
        self.register_buffer("pixels", torch.arange(1.0, side + 1), persistent=False)
        places = (torch.arange(1.0, n + 1) - n / 2 - 0.5) * ((side - 1) / max(n - 1, 1))
        self.register_buffer("places", places, persistent=False)  # in units of delta~

    def bank(self, told: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F_X and F_Y [N, n, side], and gamma [N,1,1]."""
        told = told.float()  # half precision would blur places
        variance, delta, gamma = told[:, 2:, None, None].exp().unbind(1)
        centre = (told[:, :2] + 1) * ((self.side + 1) / 2)
        mu = torch.addcmul(centre[:, :, None], delta, self.places)
        rows = torch.softmax((self.pixels - mu[..., None]).square() / (-2 * variance[..., None]), -1)
        return rows[:, 0], rows[:, 1], gamma

    def read(self, pictures: Tensor, told: Tensor) -> Tensor:
        """What the grid sees of k pictures [N,side,k,side] (rows, picture, columns): gamma F_Y picture F_X^T of each -> [N, n*k*n]."""
        count, side, k, _ = pictures.shape
        columns, rows, gamma = self.bank(told)
        halfway = torch.bmm(rows, pictures.reshape(count, side, k * side)).reshape(count, self.n * k, side)
        return (torch.bmm(halfway, columns.transpose(1, 2)) * gamma).reshape(count, self.n * k * self.n)

    def write(self, patch: Tensor, told: Tensor) -> Tensor:
        """The grid's way back onto the canvas: F_Y^T patch F_X / gamma of patches [N,n,n] -> [N, side*side]."""
        columns, rows, gamma = self.bank(told)
        return torch.bmm(torch.bmm(rows.transpose(1, 2), patch / gamma), columns).reshape(patch.shape[0], self.side**2)


class Lstm(nn.Module):
    """One LSTM over inputs [N, n_in], unrolled by its caller; gates in the order input, forget, output, candidate."""

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4 * hidden, n_in + hidden))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        self.output = nn.Parameter(torch.zeros(hidden))  # the paper learns the first state
        self.cell = nn.Parameter(torch.zeros(hidden))
        bound = 1 / math.sqrt(hidden)
        nn.init.uniform_(self.weight, -bound, bound)
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = 1  # remember, until told otherwise

    def begin(self, count: int) -> Memory:
        """The first state, for `count` rows."""
        return self.output.expand(count, -1), self.cell.expand(count, -1)

    def weigh(self, inputs: Tensor, told: Tensor) -> Tensor:
        """Gates [N, 4*hidden] before their squashing, from inputs joined to the last output [N, n_in+hidden] and what is `told` [N, 4*hidden]."""
        return F.linear(inputs, self.weight) + told

    def move(self, gates: Tensor, cell: Tensor) -> Memory:
        """The next state."""
        hidden = cell.shape[1]
        doors, candidate = gates.split_with_sizes(
            [3 * hidden, hidden], 1
        )  # along the units: to split the batch is what would freeze an export
        into, keep, out = torch.sigmoid(doors).chunk(3, 1)
        cell = torch.addcmul(into * torch.tanh(candidate), keep, cell)
        return out * torch.tanh(cell), cell


class Encoder(nn.Module):
    """What reads an image and says q(z_t) of each step."""

    def __init__(self, choice: params.Draw, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.side = image_size
        self.grid = Grid(choice.read_size, image_size) if choice.attention else None
        self.glance = nn.Linear(choice.hidden, 5) if choice.attention else None
        self.lstm = Lstm(2 * (choice.read_size if choice.attention else image_size) ** 2 + choice.hidden, choice.hidden)
        self.posterior = nn.Linear(choice.hidden, 2 * choice.latent_dim)
        self.label = _labels(choice, n_classes)

    def look(self, image: Tensor, error: Tensor, output: Tensor) -> Tensor:
        """What the encoder reads of the image and of what the canvas lacks, both [N, H*W]; the decoder's last output says where."""
        if self.grid is None or self.glance is None:
            return torch.cat([image, error], 1)
        pictures = torch.stack([image.reshape(-1, self.side, self.side), error.reshape(-1, self.side, self.side)], 2)
        return self.grid.read(pictures, self.glance(output))


class Painter(Stepwise):
    """The decoder as a generator: noise float32 [N, steps*latent_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1].

    Its state is one tensor [N, H*W + 2*hidden + steps*latent_dim]: the canvas, the LSTM's output and cell, and the noise,
    turned by one step's share each time, so that the next share always comes first. Painting needs no encoder, and an exported
    file holds none; it is kept here so that it is averaged, chosen and saved with the rest, and what ships keeps its bound.
    """

    def __init__(self, choice: params.Draw, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.side, self.pixels, self.hidden = image_size, image_size**2, choice.hidden
        self.steps, self.latent_dim = choice.steps, choice.latent_dim
        self.grid = Grid(choice.write_size, image_size) if choice.attention else None
        self.lstm = Lstm(choice.latent_dim, choice.hidden)
        self.brush = nn.Linear(choice.hidden, choice.write_size**2 + 5 if self.grid else self.pixels)
        self.canvas = nn.Parameter(torch.full((self.pixels,), -2.0))
        self.label = _labels(choice, n_classes)
        self.encoder = Encoder(choice, image_size, n_classes)

    def told(self, labels: Tensor) -> Tensor:
        """See `_told`."""
        return _told(self.lstm, self.label, labels)

    def stroke(self, brush: Tensor) -> Tensor:
        """What is added to the canvas, [N, H*W], of the brush's output."""
        if self.grid is None:
            return brush
        patch, told = brush[:, :-5], brush[:, -5:]
        return self.grid.write(patch.reshape(-1, self.grid.n, self.grid.n), told)

    def begin(self, noise: Tensor, labels: Tensor) -> Tensor:
        """See Stepwise."""
        n = noise.shape[0]
        return torch.cat([self.canvas.expand(n, -1), *self.lstm.begin(n), noise], 1)

    def advance(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        """See Stepwise."""
        at, size = self.pixels, self.hidden
        canvas, output, cell, noise = (
            state[:, :at],
            state[:, at : at + size],
            state[:, at + size : at + 2 * size],
            state[:, at + 2 * size :],
        )
        share = noise[:, : self.latent_dim]
        output, cell = self.lstm.move(self.lstm.weigh(torch.cat([share, output], 1), self.told(labels)), cell)
        canvas = canvas + self.stroke(self.brush(output))
        return torch.cat([canvas, output, cell, noise[:, self.latent_dim :], share], 1)

    def finish(self, state: Tensor) -> Tensor:
        """See Stepwise."""
        return torch.sigmoid(state[:, : self.pixels]).reshape(state.shape[0], 1, self.side, self.side)


class Autoencoder(nn.Module):
    """A training pass through a painter and its encoder: binary images float32 [N,1,H,W] -> the bound's two parts, as `forward` says."""

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        self.painter = painter

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and KL divergence float32 [N], nats, of images in {0, 1} under posterior samples made of `noise` [T,N,latent_dim]."""
        n, painter, encoder = images.shape[0], self.painter, self.painter.encoder
        pixels = images.reshape(n, painter.pixels)
        told_encoder, told_decoder = _told(encoder.lstm, encoder.label, labels), painter.told(labels)
        canvas = painter.canvas.expand(n, -1)
        (seen, seen_cell), (output, cell) = encoder.lstm.begin(n), painter.lstm.begin(n)
        posteriors = []
        for t in range(painter.steps):
            glimpse = encoder.look(pixels, pixels - torch.sigmoid(canvas), output)
            seen, seen_cell = encoder.lstm.move(
                encoder.lstm.weigh(torch.cat([glimpse, output, seen], 1), told_encoder), seen_cell
            )
            posterior = encoder.posterior(seen)
            mean, log_deviation = posterior.chunk(2, 1)
            posteriors.append(posterior)
            share = torch.addcmul(mean, log_deviation.exp(), noise[t])
            output, cell = painter.lstm.move(painter.lstm.weigh(torch.cat([share, output], 1), told_decoder), cell)
            canvas = canvas + painter.stroke(painter.brush(output))
        reconstruction = F.binary_cross_entropy_with_logits(canvas, pixels, reduction="none").sum(1)
        return reconstruction, divergence(torch.stack(posteriors, 1))


def divergence(posteriors: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in nats, summed over steps: [N, T, 2*latent_dim], means before log deviations -> float32 [N]."""
    mean, log_deviation = posteriors.float().chunk(2, 2)
    return 0.5 * (mean.square() + (2 * log_deviation).exp() - 2 * log_deviation - 1).sum((1, 2))


class Draw(Variant):
    """See the module."""

    name = "draw"

    def __init__(self, choice: params.Draw, image_size: int, n_classes: int, device: torch.device) -> None:
        self.choice, self.conditional = choice, choice.conditional
        self.noise_dim = choice.steps * choice.latent_dim
        self.painter = Painter(choice, image_size, n_classes)
        self.autoencoder = Autoencoder(self.painter).to(device)
        self.optimiser = torch.optim.Adam(self.autoencoder.parameters(), choice.lr, choice.betas, fused=True)

    @classmethod
    def build(cls, choice: params.Variants, image_size: int, n_classes: int, device: torch.device) -> "Draw":
        """See Variant.build."""
        return cls(choice.draw, image_size, n_classes, device)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Lower the bound on a fresh binarisation of the images, x ~ Bernoulli(grey)."""
        with self.autocast:
            parts = self._parts_of_bound(images, labels)
        reconstruction, kl = (part.mean() for part in parts)
        loss = reconstruction + kl
        norm = descend(loss, self.optimiser, self.choice.clip_norm)
        return {"loss": loss.detach(), "reconstruction": reconstruction.detach(), "kl": kl.detach(), "grad_norm": norm}

    @torch.no_grad()
    def bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See Variant.bound; the images are binarised first, x ~ Bernoulli(grey), which leaves binary ones as they are."""
        return self._parts_of_bound(images, labels)

    def _parts_of_bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(self.choice.steps, images.shape[0], self.choice.latent_dim, device=images.device)
        reconstruction, kl = self.autoencoder(torch.bernoulli(images), labels, noise)
        return reconstruction, kl

    def generator(self) -> nn.Module:
        """See Variant.generator."""
        return self.painter

    def _parts(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder, "optimiser": self.optimiser}


def _labels(choice: params.Draw, n_classes: int) -> nn.Embedding | None:
    """What a label adds to the four gates, where labels are asked for."""
    if not choice.conditional:
        return None
    embedding = nn.Embedding(n_classes, 4 * choice.hidden)
    nn.init.normal_(embedding.weight, 0.0, 0.1)
    return embedding


def _told(lstm: Lstm, label: nn.Embedding | None, labels: Tensor) -> Tensor:
    """What every step's gates start from: the bias, and the label where there is one, [N, 4*hidden]."""
    if label is None:
        return lstm.bias.expand(labels.shape[0], -1)
    return lstm.bias + label(labels)  # type: ignore[no-any-return]
