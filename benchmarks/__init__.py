"""Measurements: what a step costs, rules among themselves, and studies of what training gains."""
