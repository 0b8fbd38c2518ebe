"""One image: its header, orientation, and what DALI says of it."""
