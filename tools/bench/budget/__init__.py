"""The benchmark of budgeted training."""
