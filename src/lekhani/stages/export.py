"""export: from trained weights to generator.onnx."""

import json

from lekhani import files
from lekhani.errors import LekhaniError
from lekhani.export.onnx_file import export_onnx, generator_inputs, latency_ms, parity, require_parity
from lekhani.params import Params
from lekhani.paths import MODELS, REPORTS
from lekhani.stages import timings
from lekhani.stages.inputs import dataset_info
from lekhani.stages.trained import load_trained, training_facts


def export(p: Params, dataset: str, variant: str) -> None:
    """models/D/V/generator.safetensors -> models/D/V/generator.onnx and reports/D/V/{export,export_timing}.json.

    A generator.onnx that differs from torch is a LekhaniError.
    """
    info, folder = dataset_info(dataset), MODELS / dataset / variant
    facts = training_facts(dataset, variant)
    if (facts["n_classes"], facts["image_size"]) != (info.n_classes, info.image_size):
        problem = f"{folder} was trained for other classes or sizes than the prepared {dataset} has"
        raise LekhaniError(f"{problem}; run `dvc repro train@{dataset}-{variant}`.")
    generator = load_trained(p, dataset, variant)[1].generator()
    inputs, path = generator_inputs(facts["noise_dim"], facts["n_classes"]), folder / "generator.onnx"
    metadata = {
        **{key: str(facts[key]) for key in ("dataset", "variant", "noise_dim", "image_size", "seed", "profile")},
        "conditional": str(facts["conditional"]).lower(),
        "classes": info.classes_json,
        "lineage": json.dumps({key: facts[key] for key in ("data_digest", "generator_sha256")}),
    }
    export_onnx(generator, inputs, ["images"], path, metadata)
    difference = parity(generator, path, inputs)
    require_parity(difference, p.evaluate.parity_tolerance, path)
    report = {
        "parity_max_abs": difference,
        "size_mb": path.stat().st_size / 2**20,
        "model_sha256": files.sha256(path),
    }
    files.write_json(REPORTS / dataset / variant / "export.json", report)
    files.write_json(timings.path(dataset, variant, "export"), {"latency_ms": latency_ms(path, inputs)})
