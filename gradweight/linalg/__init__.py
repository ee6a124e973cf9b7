"""Linear algebra on the rows: Gram matrix, weighted sums, statistics, and where and how gradients lie in memory.

A row is one loss's gradient as a list of tensors, one per parameter, None where the loss does not reach it.
"""
