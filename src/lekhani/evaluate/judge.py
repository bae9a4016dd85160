"""The judge: a classifier trained on real glyphs whose features and logits measure every variant."""

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
from lekhani.train.loop import batches
from lekhani.variants.nets import channels_last

Floats = npt.NDArray[np.float32]
FEATURES = 128


class JudgeNet(nn.Module):
    """Six 3x3 convolutions in three blocks: images float32 [N,1,H,W] in [0,1] -> (features float32 [N,128], logits float32 [N,K])."""

    def __init__(self, n_classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 1
        for c_out in (width, 2 * width, 4 * width):
            for c in (c_in, c_out):
                layers += [nn.Conv2d(c, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2))
            c_in = c_out
        self.body = nn.Sequential(*layers)
        # 3x3 pooled cells rather than one: where a stroke lies tells letters apart.
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * c_in, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        self.head = nn.Linear(FEATURES, n_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.neck(self.body(images))
        return features, self.head(features)


@dataclass(frozen=True)
class JudgeReport:
    """How well the judge reads the test split; `confusion[i, j]` counts images of class i read as j."""

    accuracy: float
    per_class: Floats
    confusion: npt.NDArray[np.int64]
    seconds: float


def train_judge(
    choice: params.Judge,
    train: tuple[Bytes, Labels],
    test: tuple[Bytes, Labels],
    n_classes: int,
    seed: int,
    device: torch.device,
    on_progress: Callable[[float, float], None],
) -> tuple[JudgeNet, JudgeReport]:
    """Train on uint8 images [N,H,W], labels int64 [N] with AdamW on a one-cycle schedule; the test split is read once, at the end.

    `on_progress` hears the share done and the mean loss ten times or so.
    """
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    started = time.perf_counter()
    images, labels = (torch.from_numpy(array).to(device) for array in train)
    net = channels_last(JudgeNet(n_classes, choice.width), device)
    optimiser = torch.optim.AdamW(net.parameters(), choice.lr, weight_decay=choice.weight_decay, fused=True)
    batch_size = min(choice.batch_size, len(images))
    steps = math.ceil(choice.images_seen / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, choice.lr, total_steps=steps)
    order = batches(len(images), batch_size, seed)
    net.train()
    tenth = math.ceil(steps / 10)
    loss_sum = torch.zeros((), device=device)
    for step in range(1, steps + 1):
        chosen = torch.from_numpy(next(order)).to(device)
        x = shift(images[chosen], choice.shift).unsqueeze(1).float().div_(255)
        loss = F.cross_entropy(net(x)[1], labels[chosen], label_smoothing=choice.label_smoothing)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        loss_sum += loss.detach()
        if step % tenth == 0:
            on_progress(step / steps, float(loss_sum) / tenth)
            loss_sum.zero_()
    net.eval()
    predicted = read(net, test[0])[1].argmax(1)
    confusion = np.zeros((n_classes, n_classes), np.int64)
    np.add.at(confusion, (test[1], predicted), 1)
    per_class = confusion.diagonal() / np.maximum(confusion.sum(1), 1)
    return net.cpu(), JudgeReport(float((predicted == test[1]).mean()), per_class.astype(np.float32), confusion, time.perf_counter() - started)


def shift(images: Tensor, most: int) -> Tensor:
    """Move each image [N,H,W] by up to `most` pixels up or down and left or right, filling with black."""
    if most == 0:
        return images
    n, height, width = images.shape
    padded = F.pad(images, (most, most, most, most))
    dy, dx = torch.randint(0, 2 * most + 1, (2, n, 1), device=images.device)
    rows = (dy + torch.arange(height, device=images.device))[:, :, None]
    columns = (dx + torch.arange(width, device=images.device))[:, None, :]
    return padded[torch.arange(n, device=images.device)[:, None, None], rows, columns]


@torch.no_grad()
def read(net: JudgeNet, images: Bytes, batch_size: int = 512) -> tuple[Floats, Floats]:
    """Features float32 [N,128] and logits float32 [N,K] of uint8 images [N,H,W]."""
    device = next(net.parameters()).device
    parts = []
    for start in range(0, len(images), batch_size):
        x = torch.from_numpy(images[start : start + batch_size]).to(device).unsqueeze(1).float().div_(255)
        parts.append([t.cpu().numpy() for t in net(x)])
    features, logits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return features, logits
