"""Glyphs in the making: what each step of a generator leaves on the paper, as a moving picture.

A generator that works in steps is exported as one graph in which the state after step i is called `state_i`, and the nodes
that turn the last state into images `finish/...`. Here the states become outputs, and the finish is run on every one of them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from lekhani.data.spec import Labels
from lekhani.errors import UsageError
from lekhani.files import replacing
from lekhani.inference.labels import parse_runs
from lekhani.inference.model import LoadedModel
from lekhani.inference.sampling import Plan, SamplingOptions, sample_shard
from lekhani.inference.session import Floats, Generator
from lekhani.pictures import Picture, enlarged, grid, to_uint8

if TYPE_CHECKING:
    import onnx

FORMATS = {".gif": "GIF", ".webp": "WEBP"}
MAX_GLYPHS = 1000
MAX_SIDE = 16_383  # WebP's; GIF could take more
HOLD_MS = 1500


def write_animation(
    pen: LoadedModel,
    wanted: Sequence[str],
    seed: int,
    out: Path,
    *,
    columns: int | None = None,
    scale: int = 4,
    fps: float = 8,
    overwrite: bool = False,
) -> str:
    """Write the glyphs that `generate` would write as they come about, as endless GIF or WebP by the suffix of `out`; returns a sentence about it.

    `columns` glyphs a row (None: at most ten), each pixel `scale` wide, `fps` frames a second; the last frame stays longer.
    """
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {out}: animations end in {' or '.join(FORMATS)}.")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already; choose another --out or pass --overwrite.")
    plan = Plan(tuple(parse_runs(wanted, pen.classes)))
    if plan.total > MAX_GLYPHS:
        raise UsageError(f"{plan.total:,} glyphs are too many to watch; ask for at most {MAX_GLYPHS:,}.")
    labels = plan.labels(0)
    columns = columns or min(len(labels), 10)
    side = pen.generator.image_size + 1
    width, height = (scale * (side * cells - 1) for cells in (min(columns, len(labels)), -(-len(labels) // columns)))
    if max(width, height) > MAX_SIDE:
        raise UsageError(
            f"The picture would be {width:,} x {height:,} pixels, and {MAX_SIDE:,} is the most; choose another --columns or --scale."
        )
    film = Film(pen.generator)
    noise = sample_shard(pen.generator, pen.reader, labels, SamplingOptions(seed)).noise
    frames = [enlarged(grid(to_uint8(images), columns), scale) for images in film.run(noise, labels)]
    save(frames, out, fps)
    height, width = frames[0].shape
    return f"Wrote {len(frames)} frames of {len(labels)} glyphs, {width} x {height} pixels, to {out} with {pen.origin}, seed {seed}."


class Film:
    """A generator that shows its steps: (noise, labels) -> images after each of them."""

    def __init__(self, generator: Generator) -> None:
        """Take the file behind `generator` apart; raises UsageError when it writes in one go."""
        import onnx

        model = onnx.load(generator.path)
        nodes = model.graph.node
        found = {name for node in nodes for name in node.output if re.fullmatch(r"state_\d+", name)}
        self.steps = len(found) - 1
        if self.steps < 1:
            raise UsageError(
                f"{generator.path} ({generator.variant}) writes in one go, so there is nothing to watch; animate a model that works in steps."
            )
        self.states = [f"state_{i}" for i in range(self.steps + 1)]
        last = self.states[-1]
        begin = [node for node in nodes if not node.name.startswith("finish/")]
        finish = [node for node in nodes if node.name.startswith("finish/")]
        self._begin = _session(model, begin, list(model.graph.input), self.states, generator)
        self._finish = _session(model, finish, [_value(last)], [model.graph.output[0].name], generator)
        self._inputs = {entry.name for entry in self._begin.get_inputs()}

    def run(self, noise: Floats, labels: Labels, batch_size: int = 128) -> Floats:
        """Noise float32 [N, noise_dim], labels int64 [N] -> images float32 [steps+1, N,1,H,W] in [0,1]; first the empty paper, last the result."""
        parts = [
            self._run(noise[i : i + batch_size], labels[i : i + batch_size]) for i in range(0, len(labels), batch_size)
        ]
        return np.concatenate(parts, 1)

    def _run(self, noise: Floats, labels: Labels) -> Floats:
        feed = {"noise": noise, "labels": labels}
        states = self._begin.run(self.states, {name: value for name, value in feed.items() if name in self._inputs})
        return np.stack([self._finish.run(None, {self.states[-1]: state})[0] for state in states])


def save(frames: Sequence[Picture], path: Path, fps: float) -> None:
    """Write grey pictures [H,W] as an endless GIF or WebP, `fps` frames a second and the last one for 1.5 seconds more."""
    from PIL import Image

    first, *others = (Image.fromarray(frame) for frame in frames)
    durations = [round(1000 / fps)] * len(others) + [round(1000 / fps) + HOLD_MS]
    with replacing(path) as temporary:
        first.save(
            temporary,
            format=FORMATS[path.suffix.lower()],
            save_all=True,
            append_images=others,
            duration=durations,
            loop=0,
            lossless=True,
        )


def _session(
    model: "onnx.ModelProto",
    nodes: "list[onnx.NodeProto]",
    inputs: "list[onnx.ValueInfoProto]",
    outputs: list[str],
    generator: Generator,
) -> ort.InferenceSession:
    """A session for some nodes of `model` with the weights that they use, on the device that `generator` runs on."""
    import onnx

    used = {name for node in nodes for name in node.input}
    weights = [weight for weight in model.graph.initializer if weight.name in used]
    graph = onnx.helper.make_graph(nodes, "part", inputs, [_value(name) for name in outputs], weights)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(part.SerializeToString(), options, providers=generator.session.get_providers())


def _value(name: str) -> "onnx.ValueInfoProto":
    """A float tensor of any shape."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
