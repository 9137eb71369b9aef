"""How many answers a second one server gives, beside a bare batched forward pass."""
