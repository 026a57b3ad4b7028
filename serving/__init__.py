"""Answers from a published bundle with ONNX Runtime; needs no torch."""
