"""Masks that get their edges from the image, by an encoder that knows images and weights that carry over."""
