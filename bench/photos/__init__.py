"""A bundle for photographs against its uncompressed networks: agreement, bytes, clips, and what the edge spends."""
