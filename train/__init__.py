"""Training of codecs and reference networks, and the data they are trained on."""
