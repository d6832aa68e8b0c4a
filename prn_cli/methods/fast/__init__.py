"""`fast`: a bias map from logits, and perhaps an image."""
