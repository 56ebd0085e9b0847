"""Quantisation: fewer bits for weights and activations, as standard ONNX (QDQ, MatMulNBits, float16)."""
