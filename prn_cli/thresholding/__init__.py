"""Thresholds of patches and of whole maps: search, pseudo-labels, strength."""
