"""Records of jobs, hooks, progress."""
