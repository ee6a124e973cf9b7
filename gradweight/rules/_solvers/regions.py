"""What `compiled_once` asks of ``torch.compile``: imported while that traces, since Dynamo takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from ...torch_private import in_transform

P = ParamSpec("P")
R = TypeVar("R")


# The None keeps Dynamo from reusing a trace by comparing guards, which fails on globals of array_api_compat.
# Equal regions are still compiled once.
@torch.compiler.nested_compile_region
def region(body: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, None]:
    """``body(*args)``, compiled as a region of its own, and nothing beside it."""
    return body(*args, **kwargs), None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def transformed() -> bool:
    """Whether a transform of `torch.func` is at work."""
    return in_transform()
