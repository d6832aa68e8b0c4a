"""Training of any method, by its recipe: data, the loop, checkpoints, and the export to ONNX. With torch."""
