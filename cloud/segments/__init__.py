"""Sealed archives: immutable segments with a Parquet index, on any file system that fsspec knows."""
