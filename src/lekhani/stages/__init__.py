"""The stages of dvc.yaml and the steps of the registry, one module per subject; each composes the packages beside it."""
