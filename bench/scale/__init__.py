"""A model of fleets of 10 to a million cameras, from what was measured here and stated assumptions."""
