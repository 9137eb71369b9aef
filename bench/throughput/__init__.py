"""How many answers a second one server gives, against a bare batched forward pass."""
