"""From a decoded latent to every task's answer: loading, batching, tails."""
