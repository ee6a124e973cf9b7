"""Rows: the gradients of several losses as trees, their Gram matrix, their weighted sum."""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

__all__ = ["Rows", "gram_matrix", "rows_of", "stack", "statistics", "weighted_sum"]

Tree: TypeAlias = Any
"""Any tree of arrays."""

Rows: TypeAlias = list[Tree]
"""One tree for each loss, all of the parameters' structure."""


def stack(gradients: Mapping[str, Tree], names: Sequence[str]) -> Tree:
    """Gradients by name as one tree of the parameters' structure, whose leaves have a leading axis of the m losses.

    It is the form that `optax.masked` and `optax.multi_transform` can take apart by parameter.

    Args:
        gradients: name -> tree.
        names: of the losses, in the order of the axis.

    Raises:
        ValueError: other names.

    Example:
        >>> stack({"data": {"w": jnp.ones(2)}, "pde": {"w": jnp.zeros(2)}}, ("data", "pde"))
        {'w': Array([[1., 1.],
               [0., 0.]], dtype=float32)}
    """
    _check_names(gradients, names, "stack", "gradients")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(gradients[name] for name in names))


def rows_of(updates: Tree, names: Sequence[str], params: Tree | None) -> Rows:
    """The rows in any of the forms in which `combine` takes them, in the order of the names.

    Raises:
        ValueError: a leaf without the leading axis of the losses; other names.
    """
    m = len(names)
    structure = None if params is None else jax.tree.structure(params)
    if structure is None or structure != jax.tree.structure(updates):
        if isinstance(updates, Mapping) and (set(updates) == set(names) or structure is not None):
            _check_names(updates, names, "combine", "updates")
            return [updates[name] for name in names]
        if structure is not None and isinstance(updates, list | tuple) and len(updates) == m:
            return list(updates)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(updates)
    wanted: list[tuple[int, ...] | None] = [None] * len(leaves)
    if structure is not None and structure == treedef:
        wanted = [jnp.shape(p) for p in jax.tree.leaves(params)]
    for (path, leaf), shape in zip(leaves, wanted, strict=True):
        found = jnp.shape(leaf)
        if found[:1] != (m,) or (shape is not None and found[1:] != shape):
            needed = f"(m, ...) = ({m}, ...)" if shape is None else f"{(m, *shape)}"
            where = jax.tree_util.keystr(path) or "the only leaf"
            hint = "take them from loss_gradients"
            if found == shape:
                hint += ", and micro-batches from gradweight.optax.accumulate: optax.MultiSteps keeps one gradient"
            raise ValueError(
                f"combine needs updates with a leading axis of the {m} losses {list(names)}, shape {needed}; "
                f"got shape {found} at {where}: {hint}"
            )
    return [jax.tree.map(lambda leaf, i=i: leaf[i], updates) for i in range(m)]


def names_of(names: Sequence[str] | int, owner: str) -> tuple[str, ...]:
    """The names, or m of them made up, ``"0"`` to ``"m-1"``, where only their number is given.

    Raises:
        ValueError: no names, one name twice, or a single string.
    """
    found = tuple(map(str, range(names))) if isinstance(names, int) else tuple(names)
    if isinstance(names, str) or not found or len(set(found)) < len(found):
        raise ValueError(f"{owner} needs the names of the losses, each once, or how many there are; got {names!r}")
    return found


def _check_names(found: Mapping[str, Any], names: Sequence[str], owner: str, what: str) -> None:
    if set(found) != set(names):
        raise ValueError(f"{owner} was made for the losses {list(names)}; got {what} of {sorted(map(str, found))}")


def check_not_reduced(rows: Rows, axis_name: str) -> None:
    """Raise `ValueError` if the gradients are the same on each device of the axis, and their mean would be no mean.

    `jax.shard_map` keeps account of what differs from device to device, unless it is told not to. Parameters that do
    not have gradients that do not: the sum over all devices.
    """

    def differs(array: jax.Array) -> bool:
        kind = jax.typeof(array)
        # releases of JAX differ in where they keep it
        return axis_name in getattr(getattr(kind, "manual_axis_type", None), "varying", getattr(kind, "vma", ()))

    if differs(jax.lax.axis_index(axis_name)) and not all(map(differs, itertools.chain(*row_leaves(rows)))):
        raise ValueError(
            f"combine(axis_name={axis_name!r}) needs the gradients of each device's own losses; got their sum over "
            f"{axis_name!r}, which jax.shard_map takes of parameters that are the same on each device: average the "
            f"losses and scores with jax.lax.pmean(..., {axis_name!r}) where they are computed and leave axis_name "
            "out, or pass check_vma=False to jax.shard_map"
        )


def is_row_leaf(leaf: Any) -> bool:
    """Whether a leaf has coordinates: integers, booleans and the zeros that JAX has for their gradients do not."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact))


def row_leaves(rows: Rows) -> list[tuple[jax.Array, ...]]:
    """For each parameter that has coordinates its m gradients."""
    leaves = zip(*map(jax.tree.leaves, rows), strict=True)
    return [group for group in leaves if is_row_leaf(group[0])]


def gram_dtype(tree: Tree) -> Any:
    """In which inner products are formed: float32, or wider if a leaf is."""
    real = [jnp.zeros((), jnp.result_type(leaf)).real.dtype for leaf in jax.tree.leaves(tree) if is_row_leaf(leaf)]
    return jnp.result_type(jnp.float32, *real)


def gram_matrix(rows: Rows) -> jax.Array:
    """Inner products of the gradients, (m, m), a complex entry counted as its real and imaginary parts."""
    m, groups, dtype = len(rows), joined(row_leaves(rows)), gram_dtype(rows[0])
    entries: dict[tuple[int, int], jax.Array] = {}
    for i in range(m):
        for j in range(i, m):
            parts = [_inner(group[i], group[j], dtype) for group in groups]
            entries[i, j] = entries[j, i] = functools.reduce(operator.add, parts, jnp.zeros((), dtype))
    return jnp.stack([jnp.stack([entries[i, j] for j in range(m)]) for i in range(m)])


# Of a GPU every inner product is a launch; on a CPU an inner product of so many entries takes as long as it takes to
# start it, and to copy 65,536 takes longer than to multiply them where they lie.
_SMALL = 4096


def joined(groups: list[tuple[jax.Array, ...]]) -> list[tuple[jax.Array, ...]]:
    """The same coordinates, the gradients of small parameters of a dtype concatenated to one array for each loss."""
    large = [group for group in groups if group[0].size > _SMALL]
    small: dict[Any, list[tuple[jax.Array, ...]]] = {}
    for group in groups:
        if group[0].size <= _SMALL:
            small.setdefault(group[0].dtype, []).append(group)
    rows = [zip(*some, strict=True) for some in small.values()]
    return large + [tuple(jnp.concatenate([jnp.ravel(leaf) for leaf in row]) for row in some) for some in rows]


def _inner(a: jax.Array, b: jax.Array, dtype: Any) -> jax.Array:
    if jnp.iscomplexobj(a):
        return _inner(a.real, b.real, dtype) + _inner(a.imag, b.imag, dtype)
    # contracted over every axis as they lie: nothing is copied, nothing is rounded to fewer digits
    axes = tuple(range(a.ndim))
    return jax.lax.dot_general(
        a, b, ((axes, axes), ((), ())), precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype
    )


def weighted_sum(weights: jax.Array, rows: Rows) -> Tree:
    """``sum_i weights[i] g_i``, in the dtypes of the rows; leaves without coordinates as they are in the first."""

    def combined(*leaves: jax.Array) -> jax.Array:
        if not is_row_leaf(leaves[0]):
            return leaves[0]
        total = functools.reduce(operator.add, (weights[i] * leaf for i, leaf in enumerate(leaves)))
        return total.astype(leaves[0].dtype)

    return jax.tree.map(combined, *rows)


def statistics(rows: Rows) -> dict[str, jax.Array]:
    """The largest and the mean absolute entry of each gradient, (m,), complex ones by their parts."""
    dtype = gram_dtype(rows[0])
    largest, mean = [], []
    for row in rows:
        leaves = [leaf for leaf in jax.tree.leaves(row) if is_row_leaf(leaf)]
        parts = [p for leaf in leaves for p in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))]
        sizes = [jnp.abs(part).astype(dtype) for part in parts if part.size]
        count = max(sum(size.size for size in sizes), 1)
        largest.append(functools.reduce(jnp.maximum, (size.max() for size in sizes), jnp.zeros((), dtype)))
        mean.append(functools.reduce(operator.add, (size.sum() for size in sizes), jnp.zeros((), dtype)) / count)
    return {"max_abs": jnp.stack(largest), "mean_abs": jnp.stack(mean)}
