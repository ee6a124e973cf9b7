"""Angles between gradients, scores, and the grid of settings."""
