"""The steps of `train`, each a function of values."""
