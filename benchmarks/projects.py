"""The recipe of one of the five projects that Lekhani reproduces, on its own data, by the judge of the package.

    python benchmarks/projects.py dcgan|draw|draw_plain|cgan|mlp_gan|numpy_gan --images N
                                  [--out FILE.json] [--grid FILE.png]
    python benchmarks/projects.py best|classifier --images N [--out FILE.json]

Run it in a project folder in which `lekhani fetch` and `lekhani prepare` have put the real images into data/prepared.
It trains with the settings of `profile: full`; --images is the budget, repeats counted. `best` and `classifier` train
nothing: the one scores N images of each model that comes with the package on each project's data, the other has the
package read Devanagari's real digits, and write N of them again as MNIST's. Times are those of a core
(OMP_NUM_THREADS=1), whatever else it does.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from judged import SEED, Real, draw, shipped
from origin import origin

from lekhani import params
from lekhani.data.spec import Bytes, load_prepared
from lekhani.evaluate.likelihood import nats
from lekhani.files import write_json
from lekhani.handwriting.translate import MIN_WRITTEN, digit_values
from lekhani.inference.session import Reader
from lekhani.pen import PRETRAINED, translate
from lekhani.pictures import grid, save_png
from lekhani.train.loop import Trainer, TrainerConfig
from lekhani.train.progress import ProgressBar
from lekhani.variants import VARIANTS, Variant


class Project(NamedTuple):
    """What a project trained: a variant, and on which glyphs."""

    dataset: str
    variant: str
    original: int | None = None  # images that the project's own training saw, where it is known
    attention: bool = True
    glyphs: str = ""  # all


PROJECTS = {
    "dcgan": Project("devanagari", "dcgan", 100 * 78_200),
    "draw": Project("devanagari", "draw", 50 * 78_200),
    "draw_plain": Project("devanagari", "draw", 50 * 17_000, attention=False, glyphs="०१२३४५६७८९"),
    "cgan": Project("mnist", "cgan", 10_000 * 128),
    "mlp_gan": Project("mnist", "mlp_gan"),
    "numpy_gan": Project("mnist", "bare_bones", glyphs="3"),
}
BOUNDED = 2000  # test images, for the bound of DRAW
SHOWN = ("fid", "fid_floor", "fid_ratio", "precision", "recall", "inception_score", "label_agreement", "modes_ratio")
NATS = ("nats_per_image", "nats_per_image_se", "nats_per_image_floor")


def main() -> None:
    """Train and score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=[*PROJECTS, "best", "classifier"])
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--generated", type=int, default=4600, help="images to score")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--grid", type=Path)
    given = parser.parse_args()
    if given.project == "best":
        rows = best(given.images)
    elif given.project == "classifier":
        rows = {"classifier": classify(given.images)}
    else:
        row, images = reproduce(given.project, given.images, given.generated)
        rows = {given.project: row}
        if given.grid:
            given.grid.parent.mkdir(parents=True, exist_ok=True)
            save_png(grid(images[:40], 20), given.grid)
    for name, row in rows.items():
        print(name, row)
    if given.out:
        known = json.loads(given.out.read_text(encoding="utf-8"))["projects"] if given.out.exists() else {}
        write_json(given.out, {**origin("torch", "onnxruntime"), "projects": known | rows})


def reproduce(name: str, images_seen: int, generated: int) -> tuple[dict[str, Any], Bytes]:
    """The figures of one project, trained anew, and `generated` images of it, uint8 [N,H,W]."""
    project = PROJECTS[name]
    real = Real(project.dataset, project.glyphs)
    choices = params.resolve(params.read(Path("params.yaml")) | {"profile": "full"}, "params.yaml")
    settings = getattr(choices.variants, project.variant)
    if not project.attention:
        settings = settings.model_copy(update={"attention": False})

    def build(device: torch.device) -> Variant:
        return VARIANTS[project.variant](settings, real.image_size, len(real.labels), device)

    trainer = Trainer(
        TrainerConfig(
            build=build,
            images=real.train[0],
            labels=np.searchsorted(real.labels, real.train[1]),
            images_seen=images_seen,
            batch_size=settings.batch_size,
            ema_decay=settings.ema_decay,
            ema_start=settings.ema_start,
            seed=SEED,
            settings=choices.train.model_copy(update={"score_every": 0, "sample_every": 10**12}),
            device=torch.device("cpu"),
            reporter=ProgressBar(name, images_seen),
        )
    )
    start = time.process_time()
    trained = trainer.fit()
    train_seconds = time.process_time() - start

    labels = np.arange(generated) % len(real.labels)
    torch.manual_seed(SEED)
    start = time.process_time()
    generator = trained.generator.eval()
    images = draw(generator, torch.randn(len(labels), trained.variant.noise_dim), labels)
    sample_seconds = time.process_time() - start

    card = real.figures([images], real.labels[labels] if trained.variant.conditional or len(real.labels) == 1 else None)
    trained.variant.generator().load_state_dict(generator.state_dict())  # the average, for its bound as well
    test, test_labels = real.test
    some = np.random.default_rng(4).permutation(len(test))[:BOUNDED]
    card |= nats(trained.variant, test[some], np.searchsorted(real.labels, test_labels[some]), SEED)
    row = {key: round(card[key], 4) for key in SHOWN + NATS if key in card} | {
        "images_seen": trained.images_seen,
        "share_of_original": project.original and round(trained.images_seen / project.original, 4),
        "train_core_seconds": round(train_seconds, 1),
        "train_images_per_core_second": round(trained.images_seen / train_seconds),
        "sample_images_per_core_second": round(len(labels) / sample_seconds),
    }
    return row, images


def best(count: int) -> dict[str, dict[str, Any]]:
    """The figures of `count` images of each model that comes with the package, on the glyphs of each project."""
    rows = {}
    for dataset, glyphs in sorted({(project.dataset, project.glyphs) for project in PROJECTS.values()}):
        real = Real(dataset, glyphs)
        labels = real.asked(count)
        for name, generator in shipped(dataset, "cpu"):
            start = time.process_time()
            images = generator.sample(labels, np.random.default_rng(SEED))
            seconds = time.process_time() - start
            card = real.figures([images], labels)
            rows[f"{dataset}@{name}{glyphs and ' '}{glyphs}"] = {key: round(card[key], 4) for key in SHOWN} | {
                "sample_images_per_core_second": round(len(labels) / seconds)
            }
    return rows


def classify(count: int) -> dict[str, Any]:
    """How many real digits of Devanagari's test split are read right, and how many of `count` survive as MNIST's."""
    data = load_prepared(Path("data/prepared/devanagari"))
    judge, mnist = (Reader(PRETRAINED / name / "judge.onnx", "cpu") for name in ("devanagari", "mnist"))
    digits = digit_values(data.info.classes)
    test, labels = data.split("test")
    test, labels = (part[np.isin(labels, list(digits))] for part in (test, labels))
    logits = judge.read(test)[1]
    among = np.fromiter(digits, int)[logits[:, list(digits)].argmax(1)]
    chosen = np.random.default_rng(SEED).permutation(len(test))[:count]
    wanted = np.array([digits[label] for label in labels[chosen].tolist()])
    row = {
        "digits": len(test),
        "right_of_all_classes": float((logits.argmax(1) == labels).mean()),
        "right_of_digits": float((among == labels).mean()),
        "translated": len(chosen),
    }
    for key, least in (("survive_as_drawn", 0.0), ("survive_redrawn", MIN_WRITTEN)):
        written = [
            translate(test[i], "mnist", seed=seed, min_confidence=least, force=True).images[0]
            for seed, i in enumerate(chosen)
        ]
        row[key] = float((mnist.read(np.stack(written))[1].argmax(1) == wanted).mean())
    return row


if __name__ == "__main__":
    main()
