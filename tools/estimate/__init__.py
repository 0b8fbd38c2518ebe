"""`--dry-run`: the checks of a long job, and a simple estimate of its time, disk and memory."""
