"""Task networks: training, loading, cutting in two."""
