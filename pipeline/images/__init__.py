"""Pixels: transforms, the DALI graph, augmentation and mixing."""
