"""Registered models and their files."""

import lekhani.tracking  # noqa: F401 - sets mlflow's environment before mlflow is imported
