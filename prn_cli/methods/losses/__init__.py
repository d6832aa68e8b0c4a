"""Losses. All take keyword-only `pred` (logits) and `target`, so that the two cannot be swapped."""

from prn_cli.methods.losses.joint import LossWeights, joint_loss
from prn_cli.methods.losses.terms import binary_cross_entropy, edge_loss, edge_map, focal_loss, soft_iou_loss

__all__ = ["LossWeights", "binary_cross_entropy", "edge_loss", "edge_map", "focal_loss", "joint_loss", "soft_iou_loss"]
