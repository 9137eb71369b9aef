"""Keeps the bitstreams that were answered, and asks them new questions."""
