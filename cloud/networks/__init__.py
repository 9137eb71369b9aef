"""The torch modules: networks and codec. Serving needs some of them, training all."""
