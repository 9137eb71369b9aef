"""Frames on their way to the cloud, on disk."""
