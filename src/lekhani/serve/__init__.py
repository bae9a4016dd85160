"""Generation with ONNX Runtime; torch is never imported here."""
