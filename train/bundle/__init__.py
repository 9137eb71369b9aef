"""Builds and evaluates bundles: integers, ONNX export, figures."""
