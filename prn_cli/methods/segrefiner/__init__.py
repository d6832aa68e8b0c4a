"""`segrefiner`: discrete diffusion from a coarse mask to a fine one, beside the image (SegRefiner, NeurIPS 2023)."""
