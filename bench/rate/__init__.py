"""Bytes against quality for every task, beside image codecs and feature codecs."""
