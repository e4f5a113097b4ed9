"""From a subnet to a verified file: freeze, ONNX, parity, accuracy, latency, reports."""
