"""Time from a picture to its answers over shaped links, beside sending images and running whole networks."""
