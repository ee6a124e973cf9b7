"""From named losses to one row each: engines, the autograd graphs that they traverse, sums over micro-batches."""
