"""Time from an image to its answers over shaped links, against sending images and whole networks on the edge."""
