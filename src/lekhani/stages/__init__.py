"""The stages of dvc.yaml, a module each (train is distil as well, usefulness baseline), what they share, and the steps of the registry."""
