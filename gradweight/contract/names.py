"""ParameterNames: the name of each parameter of the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from .arguments import named_pairs
from .several import bases_of

__all__ = ["ParameterNames"]


class ParameterNames:
    """The name of each parameter: from ``params`` if given, else as far as ``base`` was built with names.

    Names belong to places in the parameter groups: a framework that shards a model puts other tensors there, which have
    the names of those before them. A name that the base has for several parameters, as those of two modules may, is
    none: torch allows it, and only who asks for names needs to know.

    Args:
        base: whose parameters they are.
        params: pairs (name, parameter), also of parameters that are added to the base later.

    Raises:
        TypeError: ``params`` is no mapping and no pairs.
        ValueError: ``params`` lacks a parameter of the base, or gives two of them one name.
    """

    def __init__(self, base: Optimizer, params: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None) -> None:
        self.base = base
        self.places: dict[tuple[int, int], list[str | None]] = {}
        self.later: dict[Tensor, str] = {}
        if params is None:
            return
        names = {p: name for name, p in named_pairs(params)}
        twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
        if twice:
            raise ValueError(f"params must give every parameter a name of its own; {twice} name several")
        for place, members in _groups(base):
            self.places[place] = [names.get(p) for p in members["params"]]
            for p in members["params"]:
                if p.requires_grad and p not in names:
                    raise ValueError(
                        f"params must name every parameter of the base; it lacks one of shape {tuple(p.shape)}"
                    )
        # no reference to the others, which a framework may want to free
        ours = {p for _, members in _groups(base) for p in members["params"]}
        self.later = {p: name for p, name in names.items() if p not in ours}

    def of(self, params: Sequence[Tensor]) -> list[str] | None:
        """The names of these parameters; None unless all are known."""
        if not (self.places or self.later) and True not in ["param_names" in group for group in self.base.param_groups]:
            return None
        by_id: dict[int, str] = {}
        owner: dict[str, int] = {}
        clashing = set()
        for place, members in _groups(self.base):
            names: Sequence[str | None] = self.places.get(place, ())
            if len(names) != len(members["params"]):
                names = members.get("param_names") or [self.later.get(p) for p in members["params"]]
            for p, name in zip(members["params"], names, strict=False):
                if name is not None:
                    by_id[id(p)] = name
                    if owner.setdefault(name, id(p)) != id(p):
                        clashing.add(name)
        found = [by_id.get(id(p)) for p in params]
        known = [name for name in found if name is not None and name not in clashing]
        return known if len(known) == len(found) else None


def _groups(base: Optimizer) -> Iterable[tuple[tuple[int, int], dict[str, Any]]]:
    """The parameter groups, each with its place: groups are added at the end of each base's own list."""
    for i, each in enumerate(bases_of(base)):
        for j, group in enumerate(each.param_groups):
            yield (i, j), group
