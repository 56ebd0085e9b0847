"""Smaller files and products: low rank, palettes, a compressed container."""
