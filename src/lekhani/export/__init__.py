"""What ships: safetensors and ONNX, with proof of parity."""
