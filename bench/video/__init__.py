"""Bytes a second against task quality, for sequences of rooms and clips of fixed cameras."""
