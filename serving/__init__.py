"""Serving a bundle: the ONNX Runtime predictor."""
