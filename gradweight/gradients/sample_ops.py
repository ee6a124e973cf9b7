"""Operations that keep samples apart: of each node of a graph, which inputs carry the samples that its result carries.

A tensor carries n samples if its first dimension is n blocks of one size, one after the other, and the loss of sample i
depends on block i of it alone. Which inputs of an operation then do so too follows from what it is, its dimensions and
the shapes. One that is not listed here counts as mixing samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from ..torch_private import shape_of_result
from .graph import Edge

__all__ = ["carrying_inputs", "kind_of"]

Shape: TypeAlias = Sequence[int]
Carries: TypeAlias = Callable[[Any, Shape, Shape], bool]
"""Of a node, the shape of its result and that of an input: whether the input carries the samples that the result does.
The first dimension of both is a multiple of n."""


def kind_of(node: Node) -> str:
    """The operation without the number of its overload: ``Mul`` for ``MulBackward0``.

    A function written in Python is named by its class, which may be any name: of such, the whole name is the kind.
    """
    name = node.name()
    return name if isinstance(node, BackwardCFunction) else name.rstrip("0123456789").removesuffix("Backward")


def carrying_inputs(edge: Edge, n: int) -> list[bool]:
    """For each input of the node, whether it carries n samples if the node's result does.

    Args:
        edge: the result, which carries n samples.
        n: the number of samples, more than one.
    """
    node, result = edge
    kind, after = kind_of(node), shape_of_result(node, result)
    carries = _OPERATIONS.get(kind)
    found = [False] * len(node.next_functions)
    if carries is None or not after:
        return found
    for position, (behind, number) in enumerate(node.next_functions[: _FIRST.get(kind)]):
        before = None if behind is None else shape_of_result(behind, number)
        if before and before[0] > 0 and before[0] % n == 0:
            found[position] = carries(node, after, before)
    return found


def _aligned(node: Any, after: Shape, before: Shape) -> bool:
    """Entry by entry: what is not broadcast along the first dimension."""
    return len(before) == len(after) and before[0] == after[0]


def _in_order(node: Any, after: Shape, before: Shape) -> bool:
    """The same entries in the same order, so that blocks stay blocks."""
    return True


def _unreduced(node: Any, after: Shape, before: Shape) -> bool:
    return node._saved_reduction == 0 and before[0] == after[0]


def _along_others(node: Any, after: Shape, before: Shape) -> bool:
    """Along dimensions none of which is the first."""
    dims = node._saved_dim
    if dims is None:
        return False
    dims = dims if isinstance(dims, tuple) else (dims,)
    ndim = len(after) if kind_of(node) == "Stack" else len(before)
    return before[0] == after[0] and bool(dims) and all(_place(dim, ndim) > 0 for dim in dims)


def _transposed(node: Any, after: Shape, before: Shape) -> bool:
    return _place(node._saved_dim0, len(before)) > 0 and _place(node._saved_dim1, len(before)) > 0


def _permuted(node: Any, after: Shape, before: Shape) -> bool:
    return _place(node._saved_dims[0], len(before)) == 0


def _normalized(node: Any, after: Shape, before: Shape) -> bool:
    return len(after) > len(node._saved_normalized_shape)


def _first_stays(node: Any, after: Shape, before: Shape) -> bool:
    """In batches of matrices, images, groups of channels: the first dimension is the batch."""
    return len(before) == len(after) > 2 and before[0] == after[0]


def _multiplied(node: Any, after: Shape, before: Shape) -> bool:
    return len(before) == 2 and before[0] == after[0]


def _place(dim: int, ndim: int) -> int:
    return (dim - 2**64 if dim >= 2**63 else dim) % ndim  # as C++ has a negative one, without a sign


_FIRST = {"Addmm": 2, "Convolution": 1, "Gather": 1, "Mm": 1, "NativeGroupNorm": 1, "NativeLayerNorm": 1, "NllLoss": 1}
"""How many of the inputs may carry samples, where it is not all: weights that have as many rows do not."""

_KINDS: dict[Carries, str] = {
    _aligned: """
        Abs Add Atan2 Celu Clamp ClampMax ClampMin Clone Cos Cosh Div Elu Erf Exp Expand Expm1 Gelu Hardsigmoid
        Hardswish Hardtanh LeakyRelu Lerp Log Log10 Log1p Log2 LogSigmoid Logaddexp MaskedFill Maximum Minimum Mish Mul
        NativeDropout Neg Pow Reciprocal Relu Rsqrt Rsub Selu Sigmoid Silu Sin Sinh Softplus Sqrt Sub Tan Tanh Threshold
        ToCopy Where
        """,
    _in_order: "Alias Reshape ReshapeAlias Squeeze UnsafeView Unsqueeze View",
    _unreduced: "BinaryCrossEntropy BinaryCrossEntropyWithLogits HuberLoss MseLoss NllLoss NllLoss2D SmoothL1Loss",
    _along_others: """
        Amax Amin Cat Cumsum Gather Glu LinalgVectorNorm LogSoftmax Logsumexp Max Mean Min SafeSoftmax Select Slice
        Softmax Split SplitWithSizes Stack Sum Unbind Var
        """,
    _transposed: "Transpose",
    _permuted: "Permute",
    _normalized: "NativeLayerNorm",
    _first_stays: """
        AdaptiveAvgPool2D AvgPool2D Bmm Convolution MaxPool2DWithIndices NativeGroupNorm
        ScaledDotProductCudnnAttention ScaledDotProductEfficientAttention ScaledDotProductFlashAttention
        ScaledDotProductFlashAttentionForCpu
        """,
    _multiplied: "Addmm Mm",
}
_OPERATIONS: dict[str, Carries] = {name: carries for carries, names in _KINDS.items() for name in names.split()}
