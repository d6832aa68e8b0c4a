"""What the maps are of: binary masks, saliency, several classes."""
