"""Blocks: which parameters have a combination of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["Blocks", "Trunk", "block_of_each", "blocks_or_trunk", "check_blocks"]


@dataclass(frozen=True)
class Trunk:
    """The parameters that the rule decides on, all others being left alone."""

    params: frozenset[Tensor]

    def __repr__(self) -> str:
        return f"a trunk of {len(self.params)} parameters"


Blocks: TypeAlias = Literal["group", "layer"] | Callable[[str], str | None] | Trunk | None
"""One combination for each parameter group, for each layer, for each value of a function of the parameter's name
(None: the parameter is left alone), for the parameters of a trunk (no others), or a single one."""


def blocks_or_trunk(base: Optimizer, blocks: Any, trunk: nn.Module | Iterable[Tensor] | None) -> Blocks:
    """``blocks``, or the block that ``trunk`` is.

    Raises:
        TypeError: ``trunk`` is no module and no parameters.
        ValueError: both; a trunk none of whose parameters the base has.
    """
    if trunk is None:
        return blocks  # type: ignore[no-any-return]
    if blocks is not None:
        raise ValueError(f"trunk= is one block, and leaves the rest alone: it needs blocks=None; got {blocks!r}")
    given = trunk.parameters() if isinstance(trunk, nn.Module) else trunk
    params = list(given) if isinstance(given, Iterable) and not isinstance(given, Tensor | str) else [None]
    if not all(isinstance(p, Tensor) for p in params):
        raise TypeError(
            f"trunk must be the module that all losses share, or its parameters; got {type(trunk).__name__}"
            " (for the tensor that it returns there is shared= of backward)"
        )
    own = {p for group in base.param_groups for p in group["params"]}
    if own.isdisjoint(params):
        raise ValueError(
            f"trunk must have parameters of the base optimizer; of its {len(params)} there are none among the base's "
            f"{len(own)}"
        )
    return Trunk(frozenset(own.intersection(params)))


def block_of_each(
    blocks: Blocks, params: Sequence[Tensor], groups: Sequence[int], names: Sequence[str] | None
) -> list[str | None] | None:
    """The block of each parameter, from the index of its group and its name.

    Raises:
        TypeError: a function that returns something else than a str or None.
        ValueError: blocks that go by name, and no names; a function that leaves every parameter alone.
    """
    if blocks is None:
        return None
    if blocks == "group":
        return [f"group {group}" for group in groups]
    if isinstance(blocks, Trunk):
        return ["trunk" if p in blocks.params else None for p in params]
    if names is None:
        raise ValueError(
            "blocks by layer or by a function of the parameter's name need names: build the base optimizer from "
            "module.named_parameters(), or pass params= with a name of its own for each parameter"
        )
    block: Callable[[str], str | None] = _layer if blocks == "layer" else blocks
    found = [block(name) for name in names]
    for name, of in zip(names, found, strict=True):
        if not isinstance(of, str | None):
            raise TypeError(f"blocks must give a str or None for each name; it gave {of!r} for {name!r}")
    if all(of is None for of in found):
        some = ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise ValueError(f"blocks gave None for every parameter, so that no rule decides on any; the names are {some}")
    return found


def check_blocks(blocks: object) -> None:
    """Raise `ValueError` unless ``blocks`` is one of the kinds that there are."""
    if not (blocks is None or isinstance(blocks, Trunk) or blocks in ("group", "layer") or callable(blocks)):
        raise ValueError(f"blocks must be 'group', 'layer', a function of a parameter's name, or None; got {blocks!r}")


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name
