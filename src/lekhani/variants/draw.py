"""DRAW: a recurrent variational autoencoder that reads an image and writes a canvas in steps, with attention.

Gregor et al., "DRAW: A Recurrent Neural Network For Image Generation", ICML 2015. At each of T steps an LSTM reads the
image x and the error x^ = x - s(c) of the canvas c, and gives q(z_t) = N(mu_t, sigma_t^2); another LSTM takes a sample
z_t and adds to the canvas. The loss is the paper's bound on -log p(x) in nats, for images binarised anew at each step:

    E[-log Bernoulli(x; s(c_T))] + 1/2 sum_t sum_z (mu^2 + sigma^2 - log sigma^2 - 1)

in which -1 is there for every z of every step (the paper's equation 11 prints T/2 for what is T times z's size, over
2). The attention is the paper's, its pixels counted from 1 (equations 19 to 26): see `Grid`.

What differs: the canvas starts at a dark grey, s(-2), before its bias is learned; forget gates start open, at a bias of
1; with `conditional`, a label is a learned addition to the gates of both LSTMs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Stepwise, Variant
from lekhani.variants.optimise import optimise, set_lr, share_of_lr

LstmState = tuple[Tensor, Tensor]
"""Output and cell, both [N, hidden]."""


class Grid(nn.Module):
    """The paper's attention: n x n Gaussian filters over images of side x side pixels, placed by five numbers.

    `where` float32 [N,5] = (g~x, g~y, log sigma^2, log delta~, log gamma). With g = (side + 1) / 2 * (g~ + 1),
    delta = (side - 1) / (n - 1) * delta~ and mu_i = g + (i - n/2 - 0.5) * delta for i = 1..n, filter i weighs pixel
    a = 1..side by exp(-(a - mu_i)^2 / (2 sigma^2)) / Z, where Z makes the weights of each filter sum to 1. That is a
    softmax, which needs no guard against a tiny Z: a filter far outside the image keeps to the nearest edge, as it does
    in exact arithmetic. A grid of one filter has no stride.
    """

    def __init__(self, n: int, side: int) -> None:
        super().__init__()
        self.n, self.side = n, side
        self.pixels: Tensor
        self.places: Tensor
        self.register_buffer("pixels", torch.arange(1.0, side + 1), persistent=False)
        places = (torch.arange(1.0, n + 1) - n / 2 - 0.5) * ((side - 1) / max(n - 1, 1))
        self.register_buffer("places", places, persistent=False)  # in units of delta~

    def bank(self, where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """F_X and F_Y [N, n, side], and gamma [N,1,1]."""
        where = where.float()  # half precision would blur places
        variance, delta, gamma = where[:, 2:, None, None].exp().unbind(1)
        centre = (where[:, :2] + 1) * ((self.side + 1) / 2)
        mu = torch.addcmul(centre[:, :, None], delta, self.places)
        rows = torch.softmax((self.pixels - mu[..., None]).square() / (-2 * variance[..., None]), -1)
        return rows[:, 0], rows[:, 1], gamma

    def window(self, where: Tensor) -> Tensor:
        """The square from the first filter to the last one, float32 [N,3]: its centre's x and y, and its side.

        In parts of the image's side, so a grid with g~ = 0 and delta~ = 1 is (0.5, 0.5, 1), the whole image.
        """
        centre = (where[:, :2] + 1) * ((self.side + 1) / 2) - 0.5  # pixel a lies from a - 1 to a
        side = where[:, 3:4].exp() * ((self.side - 1) if self.n > 1 else 0) + 1  # from edge to edge of pixels
        return torch.cat([centre, side], 1) / self.side

    def read(self, images: Tensor, where: Tensor) -> Tensor:
        """Gamma F_Y image F_X^T of each of k images: [N,side,k,side] (rows, image, columns) -> [N, n*k*n]."""
        count, side, k, _ = images.shape
        columns, rows, gamma = self.bank(where)
        filtered_rows = torch.bmm(rows, images.reshape(count, side, k * side)).reshape(count, self.n * k, side)
        return (torch.bmm(filtered_rows, columns.transpose(1, 2)) * gamma).reshape(count, self.n * k * self.n)

    def write(self, patch: Tensor, where: Tensor) -> Tensor:
        """F_Y^T patch F_X / gamma of patches [N,n,n], what is added to the canvas -> [N, side*side]."""
        columns, rows, gamma = self.bank(where)
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
            self.bias[hidden : 2 * hidden] = 1  # forget gates start open

    def begin(self, count: int) -> LstmState:
        """The first state, for `count` rows."""
        return self.output.expand(count, -1), self.cell.expand(count, -1)

    def advance(self, inputs: Tensor, cell: Tensor, bias: Tensor) -> LstmState:
        """The next state from inputs beside the last output [N, n_in+hidden] and the gates' `bias` [N, 4*hidden]."""
        gates = F.linear(inputs, self.weight) + bias
        hidden = cell.shape[1]
        # Split along the units; splitting the batch would freeze its size in an export.
        gates, candidate = gates.split_with_sizes([3 * hidden, hidden], 1)
        input_gate, forget_gate, output_gate = torch.sigmoid(gates).chunk(3, 1)
        cell = torch.addcmul(input_gate * torch.tanh(candidate), forget_gate, cell)
        return output_gate * torch.tanh(cell), cell


class Encoder(nn.Module):
    """Reads an image and gives q(z_t) of each step."""

    def __init__(self, settings: params.Draw, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.side = image_size
        self.grid = Grid(settings.read_size, image_size) if settings.attention else None
        self.glance = nn.Linear(settings.hidden, 5) if settings.attention else None
        self.lstm = Lstm(
            2 * (settings.read_size if settings.attention else image_size) ** 2 + settings.hidden, settings.hidden
        )
        self.posterior = nn.Linear(settings.hidden, 2 * settings.latent_dim)
        self.label = _labels(settings, n_classes)

    def read(self, image: Tensor, error: Tensor, output: Tensor) -> Tensor:
        """What the encoder reads of image and error, both [N, H*W]; the decoder's last output says where."""
        if self.grid is None or self.glance is None:
            return torch.cat([image, error], 1)
        both = torch.stack([image.reshape(-1, self.side, self.side), error.reshape(-1, self.side, self.side)], 2)
        return self.grid.read(both, self.glance(output))


class Decoder(Stepwise):
    """The generator: noise float32 [N, steps*latent_dim], labels int64 [N] -> images float32 [N,1,H,W] in [0,1].

    Its state is one tensor [N, H*W + 2*hidden + steps*latent_dim]: the canvas, the LSTM's output and cell, and the
    noise, rotated at each step so that the next z_t always comes first. It needs no encoder, and an exported file holds
    none; the encoder belongs to it so that it is averaged, chosen and saved with the rest, and its bound can be
    computed for the weights that are exported.
    """

    def __init__(self, settings: params.Draw, image_size: int, n_classes: int) -> None:
        super().__init__()
        self.side, self.pixels, self.hidden = image_size, image_size**2, settings.hidden
        self.steps, self.latent_dim = settings.steps, settings.latent_dim
        self.grid = Grid(settings.write_size, image_size) if settings.attention else None
        self.lstm = Lstm(settings.latent_dim, settings.hidden)
        self.brush = nn.Linear(settings.hidden, settings.write_size**2 + 5 if self.grid else self.pixels)
        self.canvas = nn.Parameter(torch.full((self.pixels,), -2.0))
        self.label = _labels(settings, n_classes)
        self.encoder = Encoder(settings, image_size, n_classes)

    def write(self, output: Tensor) -> Tensor:
        """What the LSTM's output [N, hidden] adds to the canvas, [N, H*W]."""
        brush: Tensor = self.brush(output)
        if self.grid is None:
            return brush
        patch, where = brush[:, :-5], brush[:, -5:]
        return self.grid.write(patch.reshape(-1, self.grid.n, self.grid.n), where)

    def begin(self, noise: Tensor, labels: Tensor) -> Tensor:
        n = noise.shape[0]
        return torch.cat([self.canvas.expand(n, -1), *self.lstm.begin(n), noise], 1)

    def advance(self, state: Tensor, position: Tensor, labels: Tensor) -> Tensor:
        at, size = self.pixels, self.hidden
        canvas, output, cell, noise = (
            state[:, :at],
            state[:, at : at + size],
            state[:, at + size : at + 2 * size],
            state[:, at + 2 * size :],
        )
        z = noise[:, : self.latent_dim]
        output, cell = self.lstm.advance(torch.cat([z, output], 1), cell, _bias(self.lstm, self.label, labels))
        return torch.cat([canvas + self.write(output), output, cell, noise[:, self.latent_dim :], z], 1)

    def window(self, state: Tensor) -> Tensor | None:
        if self.grid is None:
            return None
        output = state[:, self.pixels : self.pixels + self.hidden]
        return self.grid.window(self.brush(output)[:, -5:])

    def finish(self, state: Tensor) -> Tensor:
        return torch.sigmoid(state[:, : self.pixels]).reshape(state.shape[0], 1, self.side, self.side)


class Autoencoder(nn.Module):
    """A training pass through encoder and decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, images: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The bound's two parts, reconstruction and KL divergence float32 [N] in nats.

        Of images float32 [N,1,H,W] in {0, 1} and labels int64 [N], with posterior samples made of `noise`
        [T,N,latent_dim].
        """
        n, decoder, encoder = images.shape[0], self.decoder, self.decoder.encoder
        pixels = images.reshape(n, decoder.pixels)
        encoder_bias = _bias(encoder.lstm, encoder.label, labels)
        decoder_bias = _bias(decoder.lstm, decoder.label, labels)
        canvas = decoder.canvas.expand(n, -1)
        (seen, seen_cell), (output, cell) = encoder.lstm.begin(n), decoder.lstm.begin(n)
        posteriors = []
        for t in range(decoder.steps):
            glimpse = encoder.read(pixels, pixels - torch.sigmoid(canvas), output)
            seen, seen_cell = encoder.lstm.advance(torch.cat([glimpse, output, seen], 1), seen_cell, encoder_bias)
            posterior = encoder.posterior(seen)
            mean, log_deviation = posterior.chunk(2, 1)
            posteriors.append(posterior)
            z = torch.addcmul(mean, log_deviation.exp(), noise[t])
            output, cell = decoder.lstm.advance(torch.cat([z, output], 1), cell, decoder_bias)
            canvas = canvas + decoder.write(output)
        reconstruction = F.binary_cross_entropy_with_logits(canvas, pixels, reduction="none").sum(1)
        return reconstruction, divergence(torch.stack(posteriors, 1))


def divergence(posteriors: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in nats, summed over steps, float32 [N].

    From [N, T, 2*latent_dim], means before log deviations.
    """
    mean, log_deviation = posteriors.float().chunk(2, 2)
    return 0.5 * (mean.square() + (2 * log_deviation).exp() - 2 * log_deviation - 1).sum((1, 2))


class Draw(Variant):
    name = "draw"
    capturable = True

    def __init__(self, settings: params.Draw, image_size: int, n_classes: int, device: torch.device) -> None:
        self.settings, self.conditional = settings, settings.conditional
        self.noise_dim = settings.steps * settings.latent_dim
        self.decoder = Decoder(settings, image_size, n_classes)
        self.autoencoder = Autoencoder(self.decoder).to(device)
        self.optimiser = torch.optim.Adam(self.autoencoder.parameters(), settings.lr, settings.betas, fused=True)

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Lower the bound on a fresh binarisation of the images, x ~ Bernoulli(grey)."""
        set_lr(self.optimiser, self.settings.lr * share_of_lr(self.settings.schedule, self.progress))
        return self.run(self._update, images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with self.autocast:
            parts = self._parts_of_bound(images, labels)
        reconstruction, kl = (part.mean() for part in parts)
        loss = reconstruction + kl
        norm = optimise(loss, self.optimiser, self.settings.clip_norm)
        return {"loss": loss.detach(), "reconstruction": reconstruction.detach(), "kl": kl.detach(), "grad_norm": norm}

    @torch.no_grad()
    def bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """See Variant.bound; images are binarised, x ~ Bernoulli(grey), which leaves binary ones as they are."""
        return self._parts_of_bound(images, labels)

    def _parts_of_bound(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(self.settings.steps, images.shape[0], self.settings.latent_dim, device=images.device)
        reconstruction, kl = self.autoencoder(torch.bernoulli(images), labels, noise)
        return reconstruction, kl

    def generator(self) -> nn.Module:
        return self.decoder

    def _parts(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder, "optimiser": self.optimiser}


def _labels(settings: params.Draw, n_classes: int) -> nn.Embedding | None:
    """What a label adds to the four gates, [n_classes, 4*hidden]; None for an unconditional model."""
    if not settings.conditional:
        return None
    embedding = nn.Embedding(n_classes, 4 * settings.hidden)
    nn.init.normal_(embedding.weight, 0.0, 0.1)
    return embedding


def _bias(lstm: Lstm, label: nn.Embedding | None, labels: Tensor) -> Tensor:
    """The bias of the gates at every step, with the label where there is one, [N, 4*hidden]."""
    if label is None:
        return lstm.bias.expand(labels.shape[0], -1)
    return lstm.bias + label(labels)  # type: ignore[no-any-return]
