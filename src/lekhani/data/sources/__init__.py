"""Where a dataset's raw bytes come from."""
