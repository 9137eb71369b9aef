"""What every training shares: steps, checkpoints, processes, scores."""
