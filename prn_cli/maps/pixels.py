"""What the numbers of masks and labels in memory mean: 0 background, 1 foreground, and the one below."""

from __future__ import annotations

IGNORE = 255
"""Pixels that do not count: invalid in a mask, ignored in a label."""
