"""The camera side: image -> latent -> bytes -> cloud. Needs no torch and never imports `cloud`."""
