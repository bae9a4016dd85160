"""The only MLflow logging code."""

import os

# Set before anything here imports mlflow, which looks up the network at import otherwise: a library phones no one unasked.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
