"""`--dry-run`: what a long job will take, from its own first steps."""
