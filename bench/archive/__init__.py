"""An archive of many frames: sealed, verified, copied, replayed, expired."""
