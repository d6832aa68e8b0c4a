"""rasters"""
