"""Sources of images: class folders, IDX, NumPy."""
