"""The bundles that one server answers with: found by fingerprint, loaded when they are needed, unloaded for room."""
