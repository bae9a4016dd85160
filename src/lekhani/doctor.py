"""What `lekhani doctor` says of a machine: what is there, what does not work, and what to do about it."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lekhani import __version__
from lekhani.errors import first_line
from lekhani.extras import EXTRAS
from lekhani.machine import cpu_count
from lekhani.text import pluralize

GB = 1 << 30
LEAST_DISK = 5 * GB  # of `make demo` with its environment
REMOTE = {"AzureExecutionProvider"}  # calls a service
SECONDS = 10  # that a server or a command may take
UV_BACKEND = "run `UV_TORCH_BACKEND=auto make setup` after removing .venv/.ready"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `ok` is None where nothing depends on it; `advice` is what to do where it fails."""

    name: str
    found: str
    ok: bool | None = True
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def examine() -> list[Check]:
    """All checks, in the order in which a run depends on them; whatever one raises becomes its finding."""
    driver = _driver()
    checks: list[tuple[str, Callable[[], Check | Iterator[Check]]]] = [
        ("Lekhani", _package),
        ("disk", _disk),
        ("GPU", lambda: driver),
        ("torch", lambda: _torch(bool(driver.ok))),
        ("ONNX Runtime", lambda: _onnxruntime(bool(driver.ok))),
        ("models", _models),
        ("MLflow", _mlflow),
        ("Prefect", _prefect),
        ("Kaggle", _kaggle),
    ]
    found: list[Check] = []
    for name, check in checks:
        try:
            result = check()
            found += [result] if isinstance(result, Check) else list(result)
        except Exception as error:  # a broken installation makes an import raise nearly anything
            found.append(Check(name, f"{type(error).__name__}: {first_line(error)}", False, "install it again"))
    return found


def _package() -> Check:
    memory = (
        f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GB:.0f} GB of memory"
        if hasattr(os, "sysconf")
        else ""
    )
    where = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cpu_count()} cores{memory}"
    return Check("Lekhani", f"{__version__} on {where}")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    advice = f"free some: `make demo` takes about {LEAST_DISK // GB} GB"
    return Check("disk", f"{free / GB:.1f} GB are free in this folder", free >= LEAST_DISK, advice)


def _driver() -> Check:
    """The NVIDIA driver; `ok` is None where there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Check("GPU", "no NVIDIA driver; everything runs on the CPU", None)
    words = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check("GPU", f"nvidia-smi does not answer: {first_line(error)}", False, "install the driver again")
    if done.returncode or not done.stdout.strip():
        said = (done.stdout + done.stderr).strip().splitlines()
        return Check("GPU", f"nvidia-smi fails: {(said or ['it says nothing'])[0]}", False, "install the driver again")
    return Check("GPU", "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()))


def _torch(gpu: bool) -> Check:
    if find_spec("torch") is None:
        return Check("torch", "not installed; only training needs it: `pip install 'lekhani[train]'`", None)
    import torch

    if torch.version.cuda is None:
        found = f"{torch.__version__}, built without CUDA"
        return Check("torch", found, False if gpu else None, f"for the GPU {UV_BACKEND}" if gpu else "")
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    found = f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    if torch.cuda.is_available():
        return Check("torch", f"{found}, sees {torch.cuda.get_device_name()}")
    advice = "update the driver to one for this CUDA" if gpu else UV_BACKEND
    return Check("torch", f"{found}, which sees no GPU", False if gpu else None, advice if gpu else "")


def _onnxruntime(gpu: bool) -> Iterator[Check]:
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version_of(name)]
    if not installed:
        extra = "gpu" if gpu else "cpu"
        yield Check("ONNX Runtime", "not installed", False, f"run `pip install 'lekhani[{extra}]'`")
        return
    if len(installed) > 1:
        advice = "uninstall both, then install one of them: they overwrite each other's files"
        yield Check("ONNX Runtime", "onnxruntime and onnxruntime-gpu are both installed", False, advice)
    import onnxruntime as ort
    from onnxruntime.capi import build_and_package_info as build

    cuda = getattr(build, "cuda_version", None)
    opening = [name for name in ort.get_available_providers() if name not in REMOTE and _opens(name)]
    said = ", ".join(name.removesuffix("ExecutionProvider") for name in opening)
    built = f"{ort.__version__}{f' for CUDA {cuda}' if cuda else ''}"
    works = not gpu or "CUDAExecutionProvider" in opening
    if cuda is None:
        advice = "for the GPU uninstall onnxruntime and run `pip install 'lekhani[gpu]'`"
    else:
        advice = (
            f"its libraries of CUDA {cuda} and cuDNN are missing: `pip install 'lekhani[gpu,train]'` brings torch's"
        )
    yield Check("ONNX Runtime", f"{built}; providers that open: {said}", works, "" if works else advice)
    own = _cuda_of_torch()
    if cuda and own and cuda.split(".")[0] != own.split(".")[0]:
        advice = "install builds for the same CUDA, since ONNX Runtime loads the libraries that torch brings"
        yield Check("CUDA", f"torch is built for {own}, ONNX Runtime for {cuda}", False, advice)


def _cuda_of_torch() -> str | None:
    if find_spec("torch") is None:
        return None
    import torch

    return torch.version.cuda


def _opens(provider: str) -> bool:
    """Whether a small model opens with a provider of ONNX Runtime: it falls back to others without an error."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    from lekhani.inference.session import load_tensorrt

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "abs", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if provider.startswith(("CUDA", "Tensorrt")):
        ort.preload_dlls()
    try:
        if provider.startswith("Tensorrt"):
            load_tensorrt()
        # ONNX Runtime's own fallback would print to stdout.
        session = ort.InferenceSession(model.SerializeToString(), options, providers=[provider], enable_fallback=0)
    except Exception:  # onnxruntime raises several classes of its own
        return False
    return provider in session.get_providers()


def _models() -> Check:
    from lekhani.pen import PRETRAINED

    shipped = sorted(folder.name for folder in PRETRAINED.iterdir() if folder.is_dir())
    return Check("models", f"{', '.join(shipped)} come with the package", bool(shipped), "install the package again")


def _missing(name: str, module: str) -> Check:
    return Check(name, f"not installed: `pip install 'lekhani[{EXTRAS[module]}]'`", None)


def _mlflow() -> Check:
    if find_spec("mlflow") is None:
        return _missing("MLflow", "mlflow")
    from lekhani.tracking import store

    if store.is_absent():
        return Check("MLflow", "no store yet; the first run makes mlruns/mlflow.db", None)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(SECONDS))
    try:
        experiments = store.connect().search_experiments(max_results=1000)
    except Exception as error:  # a server's, SQLAlchemy's, and our own
        advice = "start the server, or set MLFLOW_TRACKING_URI to another one"
        return Check("MLflow", f"the store does not answer: {first_line(error)}", False, advice)
    return Check("MLflow", f"{store.address()}, {pluralize(len(experiments), 'experiment')}")


def _prefect() -> Check:
    """Prefect is not imported: that takes seconds, and only pipelines/ may."""
    if find_spec("prefect") is None:
        return _missing("Prefect", "prefect")
    found, address = _version_of("prefect"), os.environ.get("PREFECT_API_URL")
    if not address:
        return Check("Prefect", f"{found}; no PREFECT_API_URL: each flow starts a server of its own", None)
    import requests

    try:
        requests.get(f"{address.rstrip('/')}/health", timeout=SECONDS).raise_for_status()
    except requests.RequestException as error:
        advice = "start it with `make schedule`, or unset PREFECT_API_URL"
        return Check("Prefect", f"{found}; {address} does not answer: {first_line(error)}", False, advice)
    return Check("Prefect", f"{found}; {address} answers")


def _kaggle() -> Check:
    if find_spec("kaggle") is None:
        return _missing("Kaggle", "kaggle")
    folder = Path(os.environ.get("KAGGLE_CONFIG_DIR") or Path.home() / ".kaggle")
    set_ = [name for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY") if os.environ.get(name)]
    kept = [str(folder / name) for name in ("access_token", "kaggle.json") if (folder / name).is_file()]
    if set_ or kept:
        return Check("Kaggle", f"credentials in {', '.join(set_ + kept)}")
    return Check("Kaggle", "no credentials; only `source: kaggle` needs them (docs/sources.md)", None)


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def show(checks: list[Check]) -> None:
    """Print the checks as a table, with what to do about those that fail."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 1))
    marks = {True: "[green]ok[/]", False: "[red]no[/]", None: "-"}
    for check in checks:
        table.add_row(marks[check.ok], check.name, check.found, style="bold" if check.ok is False else "")
        if check.ok is False and check.advice:
            table.add_row("", "", f"-> {check.advice}")
    Console(file=sys.stdout, markup=True, highlight=False).print(table)
