"""The only MLflow logging code."""

import os

# Set before anything here imports mlflow, which otherwise uses the network at import.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
