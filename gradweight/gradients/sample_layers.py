"""Linear layers whose gradients by sample are products of their inputs and their outputs' gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, strided
from torch.autograd.graph import Node

from ..torch_private import is_complex_result, selected, shape_of_result
from .graph import Edge
from .sample_ops import carrying_inputs, kind_of

__all__ = ["SampleLayers", "Use", "layers_by_sample"]

Place: TypeAlias = tuple[Node, int]
"""An input of a node, by its position."""


@dataclass(frozen=True)
class Use:
    """One product of matrices ``x @ w``, plus a vector in ``addmm``, whose result carries samples.

    Args:
        node: the product.
        inputs: x, (n T, p): T rows for each sample; None where it is not needed.
        flipped: whether w is the parameter transposed, as in `torch.nn.Linear`.
    """

    node: Node
    inputs: Tensor | None
    flipped: bool


@dataclass(frozen=True)
class SampleLayers:
    """What the gradients by sample of some parameters are formed from.

    Args:
        loss: the vector of losses, one for each sample.
        weights: by id of the parameter, the products that it is a factor of: all that it is used for.
        biases: by id of the parameter, the products that it is added to: all that it is used for.
    """

    loss: Edge
    weights: dict[int, list[Use]]
    biases: dict[int, list[Use]]


def layers_by_sample(losses: Sequence[Tensor], params: Iterable[Tensor]) -> SampleLayers | None:
    """The parameters of which no gradient needs to be formed, where the losses are the n > 1 entries of one vector.

    These are all whose every use is a product of matrices, as weight or as bias, and all ways from the losses to it go
    through operations that keep samples apart (`gradweight.gradients.sample_ops`). One that is used otherwise too, that
    has hooks, or that lies behind an operation that may mix samples, such as a batch norm, is not among them.

    Hooks of activations are not seen: one that makes of one sample's gradient another's is not for this.
    """
    vector = _vector_of(losses)
    if vector is None:
        return None
    carrying, parents = _walked(vector, len(losses))
    ours = {id(p) for p in params if p.is_leaf and not p.is_complex() and not p._backward_hooks}
    uses: dict[Node, list[tuple[Use, int]]] = {}
    explained: dict[Node, set[Place]] = {}
    for product in carrying:
        for position in _PARAMETERS.get(kind_of(product), ()):
            found = _use_of(product, position)
            if found is not None:
                use, path = found
                uses.setdefault(path[-1][1], []).append((use, position))
                for place, node in path:
                    explained.setdefault(node, set()).add(place)
    layers = SampleLayers(vector, {}, {})
    for leaf, some in uses.items():
        if id(leaf.variable) in ours and _all_explained(leaf, parents, explained):  # type: ignore[attr-defined]
            kind = layers.biases if some[0][1] == 0 else layers.weights
            kind[id(leaf.variable)] = [use for use, _ in some]  # type: ignore[attr-defined]
    return layers if layers.weights or layers.biases else None


_PARAMETERS = {"Addmm": (0, 2), "Mm": (1,)}
"""Of products, which inputs may be parameters: what is added, and the second factor."""
_LEAF = "torch::autograd::AccumulateGrad"


def _vector_of(losses: Sequence[Tensor]) -> Edge | None:
    """The vector that the losses are all entries of, in order; None if there is none."""
    node = losses[0].grad_fn
    if node is None or kind_of(node) != "Unbind" or len(losses) == 1:
        return None
    if any(loss.grad_fn is not node or selected(node, loss.output_nr) != i for i, loss in enumerate(losses)):
        return None
    vector: Edge = node.next_functions[0]  # type: ignore[assignment]
    return vector if shape_of_result(*vector) == (len(losses),) else None


def _walked(vector: Edge, n: int) -> tuple[list[Node], dict[Node, set[Place]]]:
    """The nodes whose results carry samples, whichever way one comes to them; and where each node's result goes."""
    carrying: dict[Node, None] = {}  # as a set in order
    pending: list[Edge] = [vector]
    mixing: list[Edge] = []
    while pending:
        edge = pending.pop()
        node = edge[0]
        if node not in carrying:
            carrying[node] = None
            for behind, carries in zip(node.next_functions, carrying_inputs(edge, n), strict=True):
                if behind[0] is not None:
                    (pending if carries else mixing).append(behind)  # type: ignore[arg-type]
    mixed: set[Node] = set()
    rest = [node for node, _ in mixing]
    while rest:
        node = rest.pop()
        if node not in mixed:
            mixed.add(node)
            rest.extend(behind for behind, _ in node.next_functions if behind is not None)
    parents: dict[Node, set[Place]] = {}
    for node in carrying.keys() | mixed:
        for position, (child, _) in enumerate(node.next_functions):
            if child is not None:
                parents.setdefault(child, set()).add((node, position))
    return [node for node in carrying if node not in mixed], parents


def _use_of(product: Any, position: int) -> tuple[Use, list[tuple[Place, Node]]] | None:
    """The use of the leaf at this input of a product, and the way to it; None if there is no leaf there."""
    if kind_of(product) == "Addmm" and (product._saved_alpha, product._saved_beta) != (1, 1):
        return None
    if is_complex_result(product, 0):  # a parameter that is real has the real part of the gradient only
        return None
    inputs = None if position == 0 else _first_factor(product)
    if position > 0 and inputs is None:
        return None
    path: list[tuple[Place, Node]] = []
    flipped = False
    place: Place = product, position
    while not path or kind_of(path[-1][1]) != _LEAF:
        behind: Any = place[0].next_functions[place[1]][0]
        if behind is None or kind_of(behind) not in (_LEAF, "Permute", "T", "ToCopy", "Transpose"):
            return None
        flipped ^= _transposes(behind)
        path.append((place, behind))
        place = behind, 0
    if position == 0 and tuple(path[-1][1].variable.shape) != shape_of_result(product, 0)[1:]:  # type: ignore[attr-defined, index]
        return None  # broadcast to the columns too
    return Use(product, inputs, flipped), path


def _transposes(node: Any) -> bool:
    """Whether this node on the way from a matrix transposes it."""
    kind = kind_of(node)
    if kind == "Permute":
        return bool(node._saved_dims[0] % 2 == 1)  # -1 is 2**64 - 1 here
    return kind == "T" or (kind == "Transpose" and (node._saved_dim0 - node._saved_dim1) % 2 == 1)


def _first_factor(product: Any) -> Tensor | None:
    name = "mat1" if kind_of(product) == "Addmm" else "self"
    raw = getattr(product, f"_raw_saved_{name}", None)
    # what hooks have moved elsewhere, or would compute once more, is theirs to give back in the backward pass
    if raw is None or raw.unpack_hook is not None:
        return None
    found: Tensor | None = getattr(product, f"_saved_{name}")
    return None if found is None or found.layout is not strided else found


def _all_explained(leaf: Node, parents: dict[Node, set[Place]], explained: dict[Node, set[Place]]) -> bool:
    """Whether a leaf, and what lies between it and the products, goes to nothing but the products."""
    pending = [leaf]
    while pending:
        node = pending.pop()
        if parents[node] != explained.get(node):
            return False
        pending.extend(parent for parent, _ in parents[node] if kind_of(parent) not in _PARAMETERS)
    return True
