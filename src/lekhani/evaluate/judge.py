"""Classifiers of real glyphs: the judge, by whose features and logits every variant is measured, and a second one.

The second one confirms the labels that the judge predicts.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lekhani import params
from lekhani.data.spec import Bytes, Labels
from lekhani.inference.confidence import confidences
from lekhani.train.batches import batches, on_device
from lekhani.variants.nets import channels_last

Floats = npt.NDArray[np.float32]
FEATURES = 128
AUGMENTATIONS = ("shift", "rotation", "scale", "shear", "bend", "thickness")
CALM = 0.2  # of what augmentation does otherwise


class Classifier(nn.Module):
    """Images float32 [N,1,H,W] in [0,1] -> (features float32 [N,128], logits float32 [N,K]).

    H and W are any multiples of 4 from 16 up. `body` ends in maps of `channels` channels, of which `cells` x `cells`
    means reach the features.
    """

    def __init__(self, body: nn.Sequential, channels: int, cells: int, n_classes: int) -> None:
        super().__init__()
        self.body = body
        pooled = [nn.AdaptiveAvgPool2d(cells), nn.Flatten(), nn.Linear(cells**2 * channels, FEATURES)]
        self.neck = nn.Sequential(*pooled, nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, n_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.neck(self.body(images))
        return features, self.head(features)


class JudgeNet(Classifier):
    """Six 3x3 convolutions in three blocks, `width` channels in the first."""

    def __init__(self, n_classes: int, width: int) -> None:
        layers: list[nn.Module] = []
        c_in = 1
        for c_out in (width, 2 * width, 4 * width):
            for c in (c_in, c_out):
                layers += [*_convolution(c, c_out), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
            c_in = c_out
        # 3x3 pooled cells rather than one: letters differ in where their strokes lie.
        super().__init__(nn.Sequential(*layers), c_in, 3, n_classes)


class SecondNet(Classifier):
    """A residual network (He et al. 2016) of three blocks, at a half, a quarter and an eighth of the image's side.

    It ends in global average pooling. As its architecture is another than the judge's, it fails on other images; the
    strided first convolution keeps it at a fraction of the cost.
    """

    def __init__(self, n_classes: int, width: int) -> None:
        stem = [*_convolution(1, width, stride=2), nn.ReLU(inplace=True)]
        blocks = [_Residual(width, width, 1), _Residual(width, 2 * width, 2), _Residual(2 * width, 4 * width, 2)]
        super().__init__(nn.Sequential(*stem, *blocks), 4 * width, 1, n_classes)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.path = nn.Sequential(
            *_convolution(c_in, c_out, stride=stride), nn.ReLU(inplace=True), *_convolution(c_out, c_out)
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Sequential(*_convolution(c_in, c_out, size=1))

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            return F.relu(self.path(x) + self.shortcut(x))
        # The same as a strided 1x1 convolution, whose backward pass writes past its memory in oneDNN (its issue 6035).
        thinned = x[:, :, :: self.stride, :: self.stride].contiguous(memory_format=torch.channels_last)
        return F.relu(self.path(x) + self.shortcut(thinned))


def _convolution(c_in: int, c_out: int, size: int = 3, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    return nn.Conv2d(c_in, c_out, size, stride, size // 2, bias=False), nn.BatchNorm2d(c_out)


@dataclass(frozen=True)
class JudgeReport:
    """How well a classifier reads the test split."""

    accuracy: float
    predicted: Labels  # for each test image
    temperature: float  # what the logits were divided by, in the head's weights
    ece: float  # expected calibration error of the net as it is
    ece_unscaled: float  # the same before the division
    images_seen: int  # in all rounds
    seconds: float


def train_judge(
    choice: params.Classifier,
    train: tuple[Bytes, Labels],
    test: tuple[Bytes, Labels],
    n_classes: int,
    seed: int,
    device: torch.device,
    on_progress: Callable[[float, float], None],
    network: Callable[[int, int], Classifier] = JudgeNet,
    bf16: bool = False,
) -> tuple[Classifier, JudgeReport]:
    """Train a classifier on uint8 images [N,H,W] with labels int64 [N]; the test split is read once, at the end.

    A share `held_out` of the train images, drawn by `seed`, is not trained on. It says after each of `choice.rounds`
    whether another is worth its time; the weights are those of the round that read most of it. It also yields the
    temperature, which then stands in the head's weights, so that softmax of the logits is a confidence. `network` is
    called with n_classes and `choice.width`. `bf16` runs the forward passes of training in bfloat16. `on_progress` is
    called about ten times a round, with the share of it that is done and the mean loss since the call before. See
    `_fit` for how the network is trained; its learning rate rises and falls anew in each round (warm restarts,
    Loshchilov and Hutter 2017).
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    started = time.perf_counter()
    order = np.random.default_rng([seed, 8]).permutation(len(train[0]))
    held, kept = ((train[0][rows], train[1][rows]) for rows in np.split(order, [int(choice.held_out * len(order))]))
    net = channels_last(network(n_classes, choice.width), device)
    seen, best, weights, temperature = 0, -1.0, net.state_dict(), 1.0
    for number in range(choice.rounds):
        budget = choice.images(n_classes) << number
        this = choice.model_copy(update={"images_seen": budget})
        _fit(net, this, kept, n_classes, seed + number, device, on_progress, bf16)
        seen += budget
        if not len(held[0]):
            break
        logits = read(net, held[0])[1]
        right = float((logits.argmax(1) == held[1]).mean())
        if right <= best:
            net.load_state_dict(weights)
            break
        best, weights, temperature = right, copy.deepcopy(net.state_dict()), fit_temperature(logits, held[1])
        if right >= choice.enough:
            break
    unscaled = read(net, test[0])[1]
    with torch.no_grad():
        net.head.weight.div_(temperature)
        net.head.bias.div_(temperature)
    predicted = unscaled.argmax(1)
    return net.cpu(), JudgeReport(
        accuracy=float((predicted == test[1]).mean()),
        predicted=predicted,
        temperature=temperature,
        ece=calibration_error(unscaled / temperature, test[1]),
        ece_unscaled=calibration_error(unscaled, test[1]),
        images_seen=seen,
        seconds=time.perf_counter() - started,
    )


def _fit(
    net: Classifier,
    choice: params.Classifier,
    train: tuple[Bytes, Labels],
    n_classes: int,
    seed: int,
    device: torch.device,
    on_progress: Callable[[float, float], None],
    bf16: bool,
) -> None:
    """Train with AdamW on a one-cycle schedule, and leave the network in eval mode.

    A share `nonsense` of each batch shows no glyph, and there all classes are equally right, so that the net is not
    confident about what it has never seen (outlier exposure, Hendrycks et al. 2019). In the last share `calm` of
    training images are changed by a fifth only, as the net will read them as they are (Touvron et al. 2019 close such
    a gap in the same way).
    """
    images, labels = (torch.from_numpy(array).to(device) for array in train)
    optimiser = torch.optim.AdamW(net.parameters(), choice.lr, weight_decay=choice.weight_decay, fused=True)
    batch_size = min(choice.batch_size, len(images))
    steps = math.ceil(choice.images(n_classes) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, choice.lr, total_steps=steps)
    rows = on_device(batches(len(images), batch_size, seed), device)
    odd = round(choice.nonsense * batch_size)
    calmer = choice.model_copy(update={name: CALM * getattr(choice, name) for name in AUGMENTATIONS})
    calm_from = steps - math.floor(choice.calm * steps)
    tenth, loss_sum = math.ceil(steps / 10), torch.zeros((), device=device)
    net.train()
    for step in range(1, steps + 1):
        chosen = next(rows)
        x = augment(images[chosen], calmer if step > calm_from else choice)
        target = F.one_hot(labels[chosen], n_classes).float()
        if odd:  # rows come in random order, so the first are as good as any
            x[:odd], target[:odd] = nonsense(odd, x.shape[-1], device), 1 / n_classes
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = net(x)[1]
        loss = F.cross_entropy(logits.float(), target, label_smoothing=choice.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        loss_sum += loss.detach()
        if step % tenth == 0:
            on_progress(step / steps, float(loss_sum) / tenth)
            loss_sum.zero_()
    net.eval()


def augment(images: Tensor, choice: params.Classifier) -> Tensor:
    """Images uint8 [N,H,W] -> float32 [N,1,H,W] in [0,1], each as another hand may have written it.

    One bilinear sampling shifts, turns, stretches, slants and bends each image by amounts of its own, uniform up to
    those of `choice`; bending is a smooth random field as in Simard et al. 2003. What comes in from outside is black.
    Then strokes grow or shrink, by a share of what dilation or erosion by 3x3 pixels does.
    """
    x = images.unsqueeze(1).float().div_(255)
    n, _, height, width = x.shape

    def up_to(most: float) -> Tensor:
        return (2 * torch.rand(n, device=x.device) - 1) * most

    angle, slant = up_to(math.radians(choice.rotation)), up_to(choice.shear)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
    stretch = torch.stack(
        [up_to(choice.scale).exp(), slant, torch.zeros_like(slant), up_to(choice.scale).exp()], 1
    ).view(n, 2, 2)
    # affine_grid measures from -1 to 1, hence in halves of the image's side.
    move = torch.stack([up_to(2 * choice.shift / width), up_to(2 * choice.shift / height)], 1).view(n, 2, 1)
    places = F.affine_grid(torch.cat([turn @ stretch, move], 2), list(x.shape), align_corners=False)
    if choice.bend:
        knots = torch.randn(n, 2, 4, 4, device=x.device) * (2 * choice.bend / width)
        places += F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    x = F.grid_sample(x, places, align_corners=False)
    if choice.thickness:
        change = up_to(choice.thickness).view(n, 1, 1, 1)
        sign = change.sign()  # the erosion of an image is the dilation of its negative
        x = x + change.abs() * (sign * F.max_pool2d(sign * x, 3, 1, 1) - x)
    return x


def nonsense(n: int, side: int, device: torch.device) -> Tensor:
    """Images float32 [n,1,side,side] in [0,1] without a glyph.

    They show spots of one random size, which reach from a blank of any grey to noise in each pixel.
    """
    cells = (1, 2, 4, 8, 16, side)[int(torch.randint(6, ()))]
    spots, rarity, brightness = (torch.rand(n, 1, count, count, device=device) for count in (cells, 1, 1))
    return F.interpolate(
        brightness * spots ** (3 * rarity).exp(), size=(side, side), mode="bilinear", align_corners=False
    )


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The temperature T in [0.1, 10] at which softmax(logits / T) fits labels int64 [N] best (Guo et al. 2017).

    The likelihood counts each label as 1 - 1/(N+2) sure, after Platt 1999: otherwise few images, all of them read
    right, would call for boundless confidence.
    """
    from scipy.optimize import minimize_scalar

    z, y = torch.from_numpy(logits).double(), torch.from_numpy(labels)

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(z / math.exp(log_temperature), y, label_smoothing=1 / (len(y) + 2)))

    return math.exp(minimize_scalar(loss, bounds=(math.log(0.1), math.log(10)), method="bounded").x)


def calibration_error(logits: Floats, labels: Labels, bins: int = 15) -> float:
    """How far confidence and accuracy lie apart, in [0,1], for logits [N,K] and labels int64 [N].

    It is the expected calibration error of Guo et al. 2017: the gap within each of `bins` equally wide bins over
    confidence, as the mean weighted by their images. scikit-learn's calibration_curve does not say those weights.
    """
    predicted, confidence = confidences(logits.astype(np.float64))
    cell = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(cell, (predicted == labels) - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


@torch.no_grad()
def read(net: Classifier, images: Bytes, batch_size: int = 512) -> tuple[Floats, Floats]:
    """Features float32 [N,128] and logits float32 [N,K] of uint8 images [N,H,W]."""
    device = next(net.parameters()).device
    parts = []
    for start in range(0, len(images), batch_size):
        x = torch.from_numpy(images[start : start + batch_size]).to(device).unsqueeze(1).float().div_(255)
        parts.append([t.cpu().numpy() for t in net(x)])
    features, logits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return features, logits
