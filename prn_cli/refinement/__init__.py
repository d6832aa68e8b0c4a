"""Logits to refined logits, window by window."""
