"""Losses that more than one variant may use."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-E[t log s(l) + (1 - t) log(1 - s(l))] of logits l [N] and targets t [N] in [0,1], s the sigmoid.

    With targets 1 for real and 0 for generated it is the discriminator's loss of Goodfellow et al. 2014, and with
    targets 1 on generated images the generator's non-saturating one.
    """
    return F.binary_cross_entropy_with_logits(logits, targets)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E[max(0, 1 - r)] + E[max(0, 1 + f)] of logits r on real and f on generated images, the discriminator's loss."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def squared_gradient_norm(scores: Tensor, images: Tensor) -> Tensor:
    """|grad D(x)|^2 of each image, float32 [N], from scores [N] of `images` [N,1,H,W], which require a gradient.

    A penalty on it can be minimised: the graph of the gradient is kept. No score may depend on another image, so that
    the gradient of their sum holds that of each.
    """
    # In float32, since squares and their second derivatives need the range and the digits.
    with torch.autocast(images.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(scores.float().sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)
