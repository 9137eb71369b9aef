"""A cloud and an edge on this machine, and what they answer for sample images."""
