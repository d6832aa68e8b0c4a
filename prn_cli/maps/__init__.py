"""Arithmetic on maps in memory: windows, blending, classes, objects; no files."""
