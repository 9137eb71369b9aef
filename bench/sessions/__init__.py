"""Thousands of simulated cameras with a session each, on one cloud."""
