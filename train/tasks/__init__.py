"""Flow 3: a new task's reconstruction for bitstreams that exist."""
