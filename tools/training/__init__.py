"""The reference training loop and what a training is made of: models, methods, checkpoints, ranks, guards."""
