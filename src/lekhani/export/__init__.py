"""Trained generators as safetensors and as ONNX, checked for parity."""
