"""bench: this engine beside ONNX Runtime, OpenVINO and PyTorch, measured in rotation."""
