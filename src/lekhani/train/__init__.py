"""The one training loop and those who listen to it."""
