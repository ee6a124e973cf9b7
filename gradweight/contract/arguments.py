"""What the arguments of the public functions must be: each check says what was needed and what was given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_count", "check_flag", "check_phi", "loss_scale", "named_pairs", "tensors_of"]


def check_count(what: str, value: Any, least: int) -> int:
    """``value`` if it is an int of at least ``least``.

    Raises:
        TypeError: it is no int.
        ValueError: it is less.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int of at least {least}; got {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}; got {value}")
    return value


def check_flag(what: str, value: Any) -> bool:
    """``value`` if it is a bool; else a `TypeError`."""
    if not isinstance(value, bool):
        raise TypeError(f"{what} must be True or False; got {value!r}")
    return value


def named_pairs(params: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The pairs (name, parameter) of the argument ``params``.

    Raises:
        TypeError: it is something else, such as a module or parameters without their names.
    """
    if isinstance(params, nn.Module) or not isinstance(params, Iterable):
        raise TypeError(_PARAMS + type(params).__name__)
    pairs = list(params.items() if isinstance(params, Mapping) else params)
    for pair in pairs:
        if not (
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], Tensor)
        ):
            raise TypeError(_PARAMS + f"{type(params).__name__} of {type(pair).__name__}")
    return pairs


def tensors_of(what: str, shared: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The tensors of an argument that is one tensor or several.

    Raises:
        TypeError: it is something else, such as the module that computes them.
    """
    tensors = [shared] if isinstance(shared, Tensor) else shared
    if not isinstance(tensors, list | tuple) or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(
            f"{what} must be a tensor, or several, through which the losses reach the trunk, such as the trunk's "
            f"output in this step; got {_described(shared)}"
        )
    return list(tensors)


def loss_scale(scaler: Any, device: torch.device) -> Tensor:
    """The loss scale of the argument ``scaler``, 0-dim.

    Raises:
        TypeError: it scales nothing.
    """
    if not callable(getattr(scaler, "scale", None)):
        raise TypeError(f"scaler must be a torch.amp.GradScaler; got {type(scaler).__name__}")
    scale: Tensor = scaler.scale(torch.ones((), device=device))
    return scale


def check_phi(phi: Any) -> None:
    """Raise `TypeError` unless this is a mapping from names to the adversary's parameters."""
    if not isinstance(phi, Mapping) or not all(isinstance(p, Tensor) for p in phi.values()):
        raise TypeError(
            "phi must be a mapping from names to the adversary's parameters, such as dict(D.named_parameters()); got "
            f"{_described(phi)}"
        )


_PARAMS = "params must be pairs (name, parameter), such as net.named_parameters(), or a mapping of them; got "


def _described(value: Any) -> str:
    inside = f" of {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
    return f"{type(value).__name__}{inside}"
