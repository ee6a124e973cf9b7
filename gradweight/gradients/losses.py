"""Named losses: the forms in which they are passed, what is required of them, and their values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

__all__ = ["Losses", "are_functions", "as_plain", "check_functions", "check_losses", "evaluate", "named_parameters"]

Losses: TypeAlias = (
    Mapping[str, Tensor]
    | Mapping[str, Callable[[dict[str, Tensor]], Tensor]]
    | Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
)


_OR_VECTOR = ", to a vector for a loss per sample if it is no function by itself and shared= is not given"
_LEAVE_OUT = "leave it out of the mapping if this step has no such loss"


def evaluate(losses: Losses, params: Sequence[Tensor], names: Sequence[str] | None) -> dict[str, Tensor]:
    """The losses as tensors with their graphs, functions called with the parameters themselves."""
    if are_functions(losses):
        with torch.enable_grad():
            losses = _call(losses, named_parameters(params, names))
    return check_losses(losses)


def as_plain(losses: Any) -> Any:
    """A mapping of another kind as a dict, and losses of a class that says what functions return as plain tensors.

    A TensorDict is not iterated by its keys; a tensor with labels would make everything that is computed from it one.
    Classes that say what operations do (DTensor) are what they are for.
    """
    if not isinstance(losses, Mapping):
        return losses
    return {name: _plain(loss) if isinstance(loss, Tensor) else loss for name, loss in losses.items()}


def _plain(loss: Tensor) -> Tensor:
    kind = type(loss)
    if kind is Tensor or kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return loss
    with torch._C.DisableTorchFunctionSubclass():
        return loss.as_subclass(Tensor)


def check_losses(losses: object, *, with_graph: bool = True) -> dict[str, Tensor]:
    """The mapping as a dict, or an error that names what is wrong with it."""
    if not isinstance(losses, Mapping):
        raise TypeError(f"losses must be a mapping name -> scalar tensor; got {type(losses).__name__}")
    if not losses:
        raise ValueError("losses must name at least one loss; got an empty mapping")
    for name, loss in losses.items():
        if not isinstance(name, str):
            raise TypeError(f"names of losses must be str; got {name!r} of type {type(name).__name__}")
        if not isinstance(loss, Tensor):
            hint = "; None is for one that another micro-batch or process has, without shared=" if loss is None else ""
            raise TypeError(f"the loss {name!r} must be a scalar tensor; got {type(loss).__name__}: {_LEAVE_OUT}{hint}")
        if loss.numel() != 1:
            raise ValueError(
                f"the loss {name!r} must be a scalar; got shape {tuple(loss.shape)}: reduce it first{_OR_VECTOR}"
            )
        if not loss.is_floating_point():
            raise TypeError(f"the loss {name!r} must be real and floating-point; got {loss.dtype}")
        if with_graph and not loss.requires_grad:
            raise ValueError(
                f"the loss {name!r} has no graph (requires_grad is False): it was detached, computed under no_grad, "
                f"or depends on no parameter: {_LEAVE_OUT}"
            )
    return dict(losses)


def check_functions(losses: Mapping[str, object]) -> None:
    """Raise unless every entry is a function: a mix of tensors and functions has no one meaning."""
    for name, loss in losses.items():
        if not isinstance(name, str):
            raise TypeError(f"names of losses must be str; got {name!r} of type {type(name).__name__}")
        if not callable(loss):
            raise TypeError(
                f"losses must be all tensors or all functions of the parameters; {name!r} is {type(loss).__name__}"
            )


def are_functions(losses: object) -> bool:
    """Whether these are functions of the parameters, or one function."""
    values: Iterable[Any] = losses.values() if isinstance(losses, Mapping) else ()
    return callable(losses) or any(callable(loss) and not isinstance(loss, Tensor) for loss in values)


def named_parameters(params: Sequence[Tensor], names: Sequence[str] | None) -> dict[str, Tensor]:
    """The parameters by name, as functions receive them; `ValueError` if their names are not known."""
    if names is None:
        raise ValueError(
            "losses that are functions of the parameters need parameter names: build the base optimizer from "
            "module.named_parameters(), or pass params= with a name of its own for each parameter"
        )
    return dict(zip(names, params, strict=True))


def _call(losses: Losses, named: dict[str, Tensor]) -> Mapping[str, Tensor]:
    if not isinstance(losses, Mapping):
        return losses(dict(named))
    check_functions(losses)
    return {name: loss(dict(named)) for name, loss in losses.items()}  # type: ignore[operator]
