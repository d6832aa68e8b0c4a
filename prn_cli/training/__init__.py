"""Everything that needs torch: networks, losses, data, the loop, checkpoints and the export to ONNX."""
