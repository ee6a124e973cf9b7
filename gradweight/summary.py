"""Summary: which losses of a long list are shown together."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["FEW", "grouped"]

FEW = 8
"""Up to so many values of one vector loss are shown one by one."""

_VALUE = re.compile(r"(.+)\[(\d+)\]")


def grouped(names: Sequence[str]) -> dict[str, list[int]]:
    """Label -> positions of the losses shown under it: of a vector of more than `FEW` values its name, else each alone.

    Example:
        >>> grouped(["a", *(f"sample[{i}]" for i in range(9))])
        {'a': [0], 'sample': [1, 2, 3, 4, 5, 6, 7, 8, 9]}
        >>> grouped(["a[0]", "a[1]"])
        {'a[0]': [0], 'a[1]': [1]}
    """
    members: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        match = _VALUE.fullmatch(name)
        if match is not None:
            members.setdefault(match[1], []).append(position)
    vectors = {label for label, some in members.items() if len(some) > FEW and label not in names}
    found: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        match = _VALUE.fullmatch(name)
        label = match[1] if match is not None and match[1] in vectors else name
        found.setdefault(label, []).append(position)
    return found
