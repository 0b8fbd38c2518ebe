"""The benchmark of loaders, beside peers."""
