"""Methods in the training loop: what they draw and choose."""
