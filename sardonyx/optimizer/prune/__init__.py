"""Pruning: channels, heads, layers and single weights less, and what is kept made good again."""
