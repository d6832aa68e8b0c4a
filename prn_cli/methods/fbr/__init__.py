"""An objective beside any method's own: foreground features away from those of the background (arXiv 2406.15755)."""
