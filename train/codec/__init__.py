"""The learned codec: its modules, its losses and its training."""
