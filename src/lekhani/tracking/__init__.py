"""The only MLflow logging code."""
