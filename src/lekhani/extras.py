"""Which extra of the package brings what is not installed."""

EXTRAS = {
    "onnxruntime": "cpu",
    "pyarrow": "parquet",
    **dict.fromkeys(
        ("fastapi", "httptools", "prometheus_client", "pythonjsonlogger", "starlette", "uvicorn", "werkzeug"), "serve"
    ),
    **dict.fromkeys(("matplotlib", "onnxscript", "safetensors", "sklearn", "torch", "torch_fidelity"), "train"),
    **dict.fromkeys(("dvc", "dvc_data", "kaggle", "kagglesdk", "mlflow", "pandas", "pandera", "prefect"), "pipeline"),
    **dict.fromkeys(("alembic", "psutil", "pygit2", "requests", "sqlalchemy", "tenacity", "urllib3"), "pipeline"),
    "huggingface_hub": "hub",
    "ray": "ray",
}


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """A sentence that names the extra which brings the missing module, None for a module that is in no extra."""
    name = (error.name or "").split(".")[0]
    extra = EXTRAS.get(name)
    if extra is None:
        return None
    if extra == "cpu":
        return (
            "ONNX Runtime is not installed; run `pip install 'lekhani[cpu]'`, or on a machine with an NVIDIA GPU "
            "`pip install 'lekhani[gpu]'`. Never install both: they overwrite each other's files."
        )
    return f"This needs {name}, which is not installed; run `pip install 'lekhani[{extra}]'`."
