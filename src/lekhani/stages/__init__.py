"""The stages of dvc.yaml, a module each (train is distil as well), what they share, and the steps of the registry."""
