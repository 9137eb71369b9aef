"""Bytes on the link for each frame, both directions: unary calls and sessions, plain and over TLS."""
