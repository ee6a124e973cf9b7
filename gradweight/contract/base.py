"""What the wrapper asks of the optimizer that it wraps."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.optim import Optimizer, SparseAdam

from .arguments import named_pairs
from .wrapper import OptimizerWrapper

__all__ = ["check_base", "names_of"]


def check_base(base: object) -> None:
    """Raise `TypeError` unless ``base`` steps along a dense ``.grad``, does not ask for losses and is no wrapper."""
    if not isinstance(base, Optimizer):
        got = f"the class {base.__name__}" if isinstance(base, type) else f"a {type(base).__name__}"
        raise TypeError(f"base must be a torch.optim.Optimizer; got {got}")
    inside = getattr(base, "optimizer", None)  # as training frameworks keep what they wrap
    if isinstance(base, OptimizerWrapper) or isinstance(inside, OptimizerWrapper):
        raise TypeError(
            f"base must be an optimizer that is not wrapped yet, since one rule decides about a step; got a "
            f"{type(base).__name__}: wrap its base optimizer instead"
        )
    if isinstance(base, SparseAdam):
        raise TypeError(
            "base must take dense gradients, which combinations are, those of sparse embeddings too; got SparseAdam: "
            "use Adam"
        )
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TypeError(
            f"base must be an optimizer whose step() needs no closure; got {type(base).__name__}, which re-evaluates "
            "one scalar loss during the step, while a combination of gradients is the gradient of none: use Adam or "
            f"SGD here, and {type(base).__name__} by itself on a fixed weighted sum of the losses"
        )


def names_of(base: Optimizer, params: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None) -> dict[Tensor, str]:
    """The name of each parameter: from ``params`` if given, else as far as ``base`` was built with names.

    Raises:
        TypeError: ``params`` is no mapping and no pairs.
        ValueError: ``params`` lacks a parameter of the base, or gives two of them one name.
    """
    if params is not None:
        names = {p: name for name, p in named_pairs(params)}
        twice = sorted(name for name, times in Counter(names.values()).items() if times > 1)
        if twice:
            raise ValueError(f"params must give every parameter a name of its own; {twice} name several")
        for group in base.param_groups:
            for p in group["params"]:
                if p.requires_grad and p not in names:
                    raise ValueError(
                        f"params must name every parameter of the base; it lacks one of shape {tuple(p.shape)}"
                    )
        return names
    return {
        p: name
        for group in base.param_groups
        for name, p in zip(group.get("param_names", ()), group["params"], strict=False)
    }
