"""The cloud side: receives packets, restores features, runs the tails, answers."""
