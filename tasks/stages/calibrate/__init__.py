"""Stage `calibrate`: temperature, thresholds, out-of-distribution score, ONNX export."""
