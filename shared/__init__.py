"""What edge and cloud must agree on. Imports neither of them."""
