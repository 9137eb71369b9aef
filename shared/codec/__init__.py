"""Integers to bytes and back. Knows no network and no task."""
