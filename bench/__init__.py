"""Measurements against targets and against peers (`isthmus bench`); needs the extra `train`."""
