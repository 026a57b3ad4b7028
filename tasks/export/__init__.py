"""A released bundle as files for other servers and runtimes, each checked against model.onnx."""
