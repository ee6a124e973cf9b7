"""The m x m solvers that the rules share: pure array code of fixed length, no host sync.

Each takes one problem, on torch, NumPy or JAX arrays, under the transforms of `torch.func` and JAX and under
``torch.compile``; those of `arrays`, `correlations` and `linear` a batch of them, too (leading dimensions).
"""
