"""A GAN in NumPy alone: two networks of one hidden layer each, forward and backward by hand, plain gradient descent.

Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014, in the form of NumPy tutorials:
noise 100 - 128 ReLU - H*W tanh against H*W - 128 leaky ReLU - 1 sigmoid. With z standard normal they minimise

    L_D = -E[log D(x)] - E[log(1 - D(G(z)))]        L_G = -E[log D(G(z))]  (non-saturating)

Unconditional. It learns all classes of its dataset, or those that the dataset's own `classes` in the params keeps: one
class is what two layers draw best.

As in the original: initial weights N(0, 2 / fan_in), zero biases, float images in [-1,1], and gradients that are summed
over the batch, so that `lr` is a rate per image; averaged ones would need 64 times as much. Different from it:

- The gradient on real images comes from the pass over real images; the original used the activations of the pass over
  generated ones, which came last. Its leaky ReLU on generated images has its own slope, not 0.
- The generator learns from the discriminator after that one's step, evaluated anew; the original mixed new weights with
  old activations.
- Losses and gradients are written on logits and need no 1e-8 in the logarithm.
- The rate at epoch e is lr / (1 + lr_decay * e); the original multiplied such factors up. An epoch is 60,000 images,
  the size of MNIST's train split, whatever the dataset's own size, which a variant does not know.
- float32, the precision of exported models; the original's was float64.
- Each pass over the data is shuffled anew; the original shuffled once.

torch stores the weights (`nn.Linear`, so that averaging, export and checkpoints are those of every variant) and draws
the random numbers; NumPy works on the same memory through views, so nothing is copied. Hence it trains on the CPU: on a
GPU, networks and arithmetic stay on the host, each batch is copied there, and the metrics of a step are CPU tensors.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.variants.base import Variant
from lekhani.variants.state import require_count

Array = npt.NDArray[np.float32]
Gradients = tuple[Array, Array, Array, Array]  # of w1, b1, w2, b2

EPOCH = 60_000  # images


class Mlp(nn.Module):
    """float32 [N,i] -> one hidden layer with a leaky ReLU of `slope` -> [N,o]; keeps the weights that NumPy trains."""

    def __init__(self, n_in: int, hidden: int, n_out: int, slope: float) -> None:
        super().__init__()
        self.first, self.second, self.slope = nn.Linear(n_in, hidden), nn.Linear(hidden, n_out), slope
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / layer.in_features))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class; the training step computes the same in NumPy."""
        return self.second(F.leaky_relu(self.first(x), self.slope))  # type: ignore[no-any-return]


class Generator(nn.Module):
    """noise float32 [N, noise_dim], labels int64 [N] (ignored) -> images float32 [N,1,H,W] in [0,1].

    Its weights stay on the CPU; images come back to the device of the noise.
    """

    def __init__(self, noise_dim: int, hidden: int, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.layers = Mlp(noise_dim, hidden, image_size**2, 0.0)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        device = next(self.parameters()).device
        images = (torch.tanh(self.layers(noise.to(device))) + 1) / 2
        return images.reshape(noise.shape[0], 1, self.image_size, self.image_size).to(noise.device)


class NumpyMlp(NamedTuple):
    """x [N,i] -> x w1^T + b1 -> leaky ReLU of `slope` -> w2^T + b2 [N,o]; float32 views of torch's own memory."""

    w1: Array  # [hidden,i]
    b1: Array  # [hidden]
    w2: Array  # [o,hidden]
    b2: Array  # [o]
    slope: float

    def forward(self, x: Array) -> "ForwardPass":
        """The output of each layer."""
        before = x @ self.w1.T + self.b1
        hidden = np.where(before > 0, before, self.slope * before)
        return ForwardPass(x, before, hidden, hidden @ self.w2.T + self.b2)

    def gradients(self, forward: "ForwardPass", out: Array) -> Gradients:
        """Of a loss with respect to the weights, given its gradient `out` [N,o] at the outputs of `forward`."""
        before = self._before(forward, out)
        return before.T @ forward.x, before.sum(0), out.T @ forward.hidden, out.sum(0)

    def input_gradient(self, forward: "ForwardPass", out: Array) -> Array:
        """The same with respect to the input, [N,i]."""
        return self._before(forward, out) @ self.w1

    def descend(self, gradients: Gradients, lr: float) -> None:
        """One step of gradient descent, in place."""
        for weight, gradient in zip((self.w1, self.b1, self.w2, self.b2), gradients, strict=True):
            weight -= lr * gradient  # noqa: PLW2901 - changes the memory that torch sees

    def _before(self, forward: "ForwardPass", out: Array) -> Array:
        hidden = out @ self.w2
        return np.where(forward.before > 0, hidden, self.slope * hidden)


class ForwardPass(NamedTuple):
    """Input, hidden layer before and after its activation, output; what the backward pass needs."""

    x: Array
    before: Array
    hidden: Array
    out: Array


class BareBones(Variant):
    name = "bare_bones"
    conditional = False

    def __init__(self, settings: params.BareBones, image_size: int, n_classes: int, device: torch.device) -> None:
        self.settings = settings
        self.noise_dim = settings.noise_dim
        self.g = Generator(settings.noise_dim, settings.hidden, image_size)
        self.d = Mlp(image_size**2, settings.hidden, 1, settings.leak)
        self.seen = _Seen()

    def step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One step of the discriminator, then one of the generator against it, on the same noise. See Variant.step."""
        n = images.shape[0]
        lr = self.settings.lr / (1 + self.settings.lr_decay * (self.seen.images // EPOCH))
        self.seen.images += n
        real = images.reshape(n, -1).cpu().numpy() * 2 - 1
        noise = torch.randn(n, self.noise_dim).numpy()
        # Views are taken anew each time: loading a state or moving a module may have changed where its weights lie.
        g, d = numpy_view(self.g.layers), numpy_view(self.d)

        generated = g.forward(noise)
        on_real, on_fake = d.forward(real), d.forward(np.tanh(generated.out))
        loss_d = _softplus(-on_real.out).mean() + _softplus(on_fake.out).mean()
        gradients_d = discriminator_gradients(d, on_real, on_fake)
        d.descend(gradients_d, lr)

        on_fake_again = d.forward(on_fake.x)
        loss_g = _softplus(-on_fake_again.out).mean()
        gradients_g = generator_gradients(g, d, generated, on_fake_again)
        g.descend(gradients_g, lr)
        metrics = {
            "loss_d": loss_d,
            "loss_g": loss_g,
            "accuracy_real": (on_real.out > 0).mean(),
            "accuracy_fake": (on_fake.out < 0).mean(),
            "logit_gap": on_real.out.mean() - on_fake.out.mean(),
            "grad_norm_d": _norm(gradients_d) / n,
            "grad_norm_g": _norm(gradients_g) / n,
        }
        return {name: torch.tensor(float(value)) for name, value in metrics.items()}

    def generator(self) -> nn.Module:
        return self.g

    def _parts(self) -> dict[str, Any]:
        return {"g": self.g, "d": self.d, "seen": self.seen}


def discriminator_gradients(d: NumpyMlp, on_real: ForwardPass, on_fake: ForwardPass) -> Gradients:
    """Of sum[-log s(l(x))] + sum[-log(1 - s(l(G(z))))] with respect to D's weights, l the logits and s the sigmoid."""
    real, fake = d.gradients(on_real, _sigmoid(on_real.out) - 1), d.gradients(on_fake, _sigmoid(on_fake.out))
    return real[0] + fake[0], real[1] + fake[1], real[2] + fake[2], real[3] + fake[3]


def generator_gradients(g: NumpyMlp, d: NumpyMlp, generated: ForwardPass, on_fake: ForwardPass) -> Gradients:
    """Of sum[-log s(l(G(z)))] with respect to G's weights; `on_fake` is D's pass over tanh of G's output."""
    at_images = d.input_gradient(on_fake, _sigmoid(on_fake.out) - 1)
    return g.gradients(generated, at_images * (1 - on_fake.x**2))


def numpy_view(layers: Mlp) -> NumpyMlp:
    """NumPy views of the weights of `layers`: what is written to one is seen by the other."""
    first, second = layers.first, layers.second
    w1, b1, w2, b2 = (weight.detach().numpy() for weight in (first.weight, first.bias, second.weight, second.bias))
    return NumpyMlp(w1, b1, w2, b2, layers.slope)


class _Seen:
    """Counts images, for the learning rate."""

    def __init__(self) -> None:
        self.images = 0

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images = require_count("seen.images", state["images"])


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))  # the same as 1 / (1 + exp(-x)), which overflows
    return result


def _softplus(x: Array) -> Array:
    result: Array = np.logaddexp(np.float32(0), x)
    return result


def _norm(gradients: Gradients) -> float:
    return math.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in gradients))
