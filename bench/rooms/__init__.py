"""The bundle `rooms` against its targets and against other codecs of its own networks."""
