"""Data sets as arrays: formats, labels, augmentation, cached features."""
