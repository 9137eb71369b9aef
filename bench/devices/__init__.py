"""One bundle on several devices: the same integers, and images a second."""
