"""The engine `ray` with some replicas, against one process."""
