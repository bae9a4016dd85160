"""What each choice of a recipe is worth: short trainings of equal time on DHCD's ten digits, by the package's judge.

    python benchmarks/recipe.py flow|one_step --out FILE.json [--seconds 150] [--seeds 2] [--only NAME ...]

Run it with OMP_NUM_THREADS=1 in a project folder with data/prepared/devanagari and, for `one_step`, the teacher in
models/devanagari/flow_matching. With ten classes of 46 a short training sees as many images of each as one that is five
times as long sees of all. Seconds are those of a core, and schedules follow them; what FILE.json has is not run again.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from judged import Real, draw
from origin import origin
from tried import ChangedFlow, LateTurbo, MeanFlow

from lekhani import params
from lekhani.files import write_json
from lekhani.stages.trained import load_trained
from lekhani.train.batches import batches
from lekhani.train.ema import Ema
from lekhani.variants.base import Variant
from lekhani.variants.drifting import Drifting
from lekhani.variants.turbo import Turbo

DIGITS, CLASSES = "०१२३४५६७८९", 46
GENERATED = 2000
SHOWN = ("fid", "fid_ratio", "precision", "recall", "label_agreement")
PAIRS = 10_000
DECAY = 0.998  # of the average; in so few steps it is capped at less
PAIRS_FILE = Path("cache/pairs.npz")
FLOW = params.FlowMatching(
    batch_size=64, channels=(32, 64, 128), blocks=(1, 1, 2), guidance=2.6, guidance_from=0.1, guidance_to=0.8
)
ENCODER_SHARE = 0.15


def flow(change: str = "", **settings: Any) -> Callable[[], Variant]:
    """flow_matching as it ships, but for one thing."""
    return lambda: ChangedFlow(FLOW.model_copy(update=settings), CLASSES, change)


def drifting(**settings: Any) -> Callable[[], Variant]:
    """Drifting with the sizes that ship."""
    chosen = params.Drifting(encoder_share=ENCODER_SHARE, **settings)
    return lambda: Drifting(chosen, 32, CLASSES, torch.device("cpu"))


def turbo(kind: type[Turbo] = Turbo, **settings: Any) -> Callable[[], Variant]:
    """A student of the trained teacher, whose pairs are drawn once for all trainings."""

    def build() -> Variant:
        choices, teacher = load_trained(params.load(), "devanagari", "flow_matching")
        chosen = params.Turbo(batch_size=64, **settings)
        student = kind(chosen, 32, CLASSES, torch.device("cpu"), choices.flow_matching)
        student.learn_from(teacher.generator())
        student.pairs.data = pairs(teacher.generator())
        return student

    return build


def mean_flow(guidance: float, features: float) -> Callable[[], Variant]:
    """Pixel MeanFlow on flow_matching's network."""
    chosen = params.Drifting(encoder_share=ENCODER_SHARE)
    return lambda: MeanFlow(FLOW, chosen, CLASSES, guidance, features)


@torch.no_grad()
def pairs(teacher: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What `turbo` is to imitate: noise, labels and images in [-1,1]; drawn once, then read from PAIRS_FILE."""
    if not PAIRS_FILE.exists():
        start = time.process_time()
        labels = torch.arange(CLASSES - len(DIGITS), CLASSES).repeat(PAIRS // len(DIGITS))
        noise = torch.randn(PAIRS, 32**2, generator=torch.Generator().manual_seed(1)).half()
        parts = zip(noise.split(250), labels.split(250), strict=True)
        images = torch.cat([teacher(few.float(), some).mul(2).sub(1).half() for few, some in parts])
        PAIRS_FILE.parent.mkdir(parents=True, exist_ok=True)
        np.savez(PAIRS_FILE, noise=noise.numpy(), labels=labels.numpy(), images=images.numpy())
        print(f"{PAIRS} pairs: {time.process_time() - start:.0f} s")
    with np.load(PAIRS_FILE) as data:
        return {name: torch.from_numpy(data[name]) for name in ("noise", "labels", "images")}


class Choice(NamedTuple):
    """How a training is built, and its precision."""

    build: Callable[[], Variant]
    precision: str = "bf16"


GROUPS = {
    "flow": {
        "as it is": Choice(flow()),
        "float32": Choice(flow(), "fp32"),
        "batch of 128": Choice(flow(batch_size=128)),
        "batch of 32": Choice(flow(batch_size=32)),
        "1.5 times as wide": Choice(flow(channels=(48, 96, 192))),
        "one block everywhere": Choice(flow(blocks=1)),
        "uniform times": Choice(flow("uniform times")),
        "OT coupling": Choice(flow("OT coupling")),
        "augmentation": Choice(flow("augmentation")),
        "image prediction": Choice(flow("image prediction")),
    },
    "one_step": {
        "drifting": Choice(drifting()),
        "drifting, float32": Choice(drifting(), "fp32"),
        "drifting, 64 generated per class": Choice(drifting(generated_per_class=64)),
        "turbo": Choice(turbo()),
        "turbo, critic later": Choice(turbo(LateTurbo)),
        "turbo, no critic": Choice(turbo(LateTurbo, adversarial=0.0)),
        "MeanFlow": Choice(mean_flow(2.0, 0.0)),
        "MeanFlow with features": Choice(mean_flow(2.0, 0.4)),
    },
}


def main() -> None:
    """Train and score what is not in the file yet, one seed after another, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=())
    given = parser.parse_args()
    real = Real("devanagari", DIGITS)
    rows = json.loads(given.out.read_text(encoding="utf-8"))["rows"] if given.out.exists() else []
    for seed in range(given.seeds):
        for name, choice in GROUPS[given.group].items():
            if any((row["name"], row["seed"]) == (name, seed) for row in rows) or name not in (given.only or [name]):
                continue
            rows.append({"name": name, "seed": seed, **train(choice, real, given.seconds, seed)})
            print(
                {key: value if isinstance(value, str) else round(value, 3) for key, value in rows[-1].items()},
                flush=True,
            )
            write_json(given.out, {**origin("torch", "onnxruntime"), "seconds": given.seconds, "rows": rows})
    print(table(rows))


def train(choice: Choice, real: Real, seconds: float, seed: int) -> dict[str, Any]:
    """Train for so many core seconds and score the averaged weights."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    variant = choice.build()
    variant.autocast = torch.autocast("cpu", torch.bfloat16) if choice.precision == "bf16" else nullcontext()
    average = Ema(variant.generator(), DECAY)
    images, labels = (torch.from_numpy(part) for part in real.train)
    start, seen, size = time.process_time(), 0, variant.settings.batch_size  # type: ignore[attr-defined]
    for chosen in map(torch.from_numpy, batches(len(images), size, seed)):
        variant.progress = (time.process_time() - start) / seconds
        if variant.progress >= 1:
            break
        variant.step(images[chosen].unsqueeze(1).float() / 255, labels[chosen])
        average.update()
        seen += size
    asked = real.asked(GENERATED)
    noise = torch.randn(GENERATED, variant.noise_dim, generator=torch.Generator().manual_seed(0))
    card = real.figures([draw(average.average, noise, asked)], asked)
    return {"images_seen": seen, **{key: card[key] for key in SHOWN}}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each choice and average, with the mean over seeds and each seed's FID."""
    head = "| choice | images seen | judge FID | by seed | precision | recall | agreement |"
    lines = [head, "| --- |" + " --- |" * 6]
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        mean = {key: sum(row[key] for row in mine) / len(mine) for key in (*SHOWN, "images_seen")}
        fids = ", ".join(f"{row['fid']:.2f}" for row in mine)
        lines.append(
            f"| {name} | {mean['images_seen']:,.0f} | {mean['fid']:.2f} | {fids} | {mean['precision']:.3f} | "
            f"{mean['recall']:.3f} | {mean['label_agreement']:.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
