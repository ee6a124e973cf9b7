"""Blocks: which parameters have a combination of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

__all__ = ["Blocks", "block_of_each", "check_blocks"]

Blocks: TypeAlias = Literal["group", "layer"] | Callable[[str], str | None] | None
"""One combination for each parameter group, for each layer, for each value of a function of the parameter's name
(None: the parameter is left alone), or a single one."""


def block_of_each(blocks: Blocks, groups: Sequence[int], names: Sequence[str] | None) -> list[str | None] | None:
    """The block of each parameter, from the index of its group and its name.

    Raises:
        TypeError: a function that returns something else than a str or None.
        ValueError: blocks that go by name, and no names; a function that leaves every parameter alone.
    """
    if blocks is None:
        return None
    if blocks == "group":
        return [f"group {group}" for group in groups]
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
    if not (blocks is None or blocks in ("group", "layer") or callable(blocks)):
        raise ValueError(f"blocks must be 'group', 'layer', a function of a parameter's name, or None; got {blocks!r}")


def _layer(name: str) -> str:
    return name.rpartition(".")[0] or name
