"""Distributed: the gradient of each loss averaged over processes, so that all of them follow one direction.

Data-parallel wrappers average what one ``.backward()`` leaves in ``.grad``; the gradients of single losses pass them
by. Here each row is averaged as soon as its backward pass is done, while that of the next loss runs:

- ``reduce="all"``: all-reduced in flat buffers. Every process holds all rows: 2mk elements on the wire.
- ``reduce="scatter"``: reduce-scattered, so that a process holds 1/n of every row, combines that part, and the
  direction is all-gathered: (m + 1)k elements on the wire, mk/n in memory. Inner products are summed over processes.
- sharded (DTensor) parameters arrive averaged and sharded by FSDP2 itself: only inner products are summed.

(k parameters, m losses, n processes; an all-reduce moves 2k(n - 1)/n, the other two k(n - 1)/n each.)

What the hosts compare, such as names, goes over CPU tensors, without a host sync.
"""

from .group import Group, check_group, communicator_of, stays
from .placement import Reduce

__all__ = ["Group", "Reduce", "check_group", "communicator_of", "stays"]
