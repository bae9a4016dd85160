"""Running an exported model: ONNX Runtime sessions, and drawing from seeds."""
