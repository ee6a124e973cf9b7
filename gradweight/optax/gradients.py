"""`loss_gradients`: from losses by name to one gradient each."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from ..rule import Rule, Signals, StatefulRule
from .combination import combine
from .rows import Tree

__all__ = ["loss_gradients", "value_and_combined_grad"]

Mode: TypeAlias = Literal["each", "vmap", "vjp"]
Losses: TypeAlias = Callable[..., Any] | Mapping[str, Callable[..., Any]]


def loss_gradients(losses_fn: Losses, has_aux: bool = False, mode: Mode = "each") -> Callable[..., tuple[Any, Any]]:
    """A function that returns the losses and the gradient of each, both by name: `jax.value_and_grad` for several.

    ``loss_gradients(f)(params, *args, **kwargs)`` is ``(losses, gradients)`` with ``losses[name]`` a scalar and
    ``gradients[name]`` a tree like ``params``; with ``has_aux``, ``((losses, aux), gradients)``.

    =======  ======================================================  ==============================================
    mode     how                                                     best for
    =======  ======================================================  ==============================================
    "each"   one ``jax.grad`` of each loss. The others are pruned     losses on batches of their own (GANs, PINNs):
             as it is traced, and XLA merges equal forwards           what they share is computed once, no more
    "vmap"   one forward, the backwards batched                      several heads on one trunk, on a GPU
    "vjp"    one forward, one backward after the other               forwards that XLA does not merge: under
                                                                      `jax.checkpoint`, custom calls, callbacks
    =======  ======================================================  ==============================================

    "vmap" and "vjp" multiply zeros through the graphs of all the other losses. That equal forwards are merged is a
    habit of XLA and not a promise: a forward that differs from call to call (impure randomness) must be run once.

    Leaves of integers have zero gradients.

    Args:
        losses_fn: a function of the parameters (first argument) that returns a mapping name -> scalar, and aux after
            it if ``has_aux``; or a mapping of one such function for each name, each returning its scalar.
        has_aux: whether ``losses_fn``, a single function then, returns ``(losses, aux)``.
        mode: see above.

    Raises:
        TypeError: no mapping is returned; a loss that is not real and floating-point; ``has_aux`` with a mapping.
        ValueError: no losses, or a loss that is not scalar; an unknown ``mode``.

    Example:
        >>> def losses(w, x):
        ...     return {"data": jnp.sum((w - x) ** 2), "size": jnp.sum(w**2)}
        >>> values, gradients = loss_gradients(losses)(jnp.array([1.0, 2.0]), 3.0)
        >>> values["data"], gradients["data"], gradients["size"]
        (Array(5., dtype=float32), Array([-4., -2.], dtype=float32), Array([2., 4.], dtype=float32))
    """
    if mode not in ("each", "vmap", "vjp"):
        raise ValueError(f"loss_gradients needs mode 'each', 'vmap' or 'vjp'; got {mode!r}")
    function = _one_function(losses_fn, has_aux)

    def value_and_gradients(params: Tree, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tree]]:
        leaves, treedef = jax.tree.flatten(params)
        moving = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

        def of_moving(some: list[Any]) -> tuple[dict[str, jax.Array], Any]:
            rest = iter(some)
            merged = [next(rest) if moves else leaf for leaf, moves in zip(leaves, moving, strict=True)]
            return function(jax.tree.unflatten(treedef, merged), *args, **kwargs)

        def whole(some: list[Any]) -> Tree:
            rest = iter(some)
            zeros = [next(rest) if m else jnp.zeros_like(leaf) for leaf, m in zip(leaves, moving, strict=True)]
            return jax.tree.unflatten(treedef, zeros)

        some = [leaf for leaf, moves in zip(leaves, moving, strict=True) if moves]
        (losses, aux), found = _MODES[mode](of_moving, some)
        return ((losses, aux) if has_aux else losses), {name: whole(row) for name, row in found.items()}

    return value_and_gradients


def value_and_combined_grad(
    losses_fn: Losses, rule: Rule, has_aux: bool = False, mode: Mode = "each"
) -> Callable[..., tuple[Any, Tree]]:
    """`jax.value_and_grad` for several losses and a rule: the losses by name, and the combined gradient.

    The shortest way for those who write their own update. A rule that remembers or counts steps needs `combine`, which
    keeps what it remembers.

    Args:
        losses_fn, has_aux, mode: as for `loss_gradients`.
        rule: how to weight the losses, in the order in which ``losses_fn`` returns them.

    The function returned takes the parameters, the arguments of ``losses_fn``, and ``signals=``, a mapping of the
    rule's signals, or a function from aux to that mapping.

    Raises:
        TypeError: a rule that remembers or counts; what `combine` and `loss_gradients` raise.

    Example:
        >>> from gradweight.rules import AngleBisector
        >>> def losses(w, x):
        ...     return {"data": jnp.sum((w - x) ** 2), "size": jnp.sum(w**2)}
        >>> values, gradient = value_and_combined_grad(losses, AngleBisector())(jnp.array([1.0, 0.0]), 3.0)
        >>> gradient
        Array([ 0.4452998, -0.8320503], dtype=float32)
    """
    if isinstance(rule, StatefulRule) or "step" in Signals.of(rule).known:
        raise TypeError(f"{type(rule).__name__} remembers or counts steps: use combine, which keeps what it remembers")
    gradients_of = loss_gradients(losses_fn, has_aux, mode)

    def combined(params: Tree, *args: Any, signals: Any = None, **kwargs: Any) -> tuple[Any, Tree]:
        values, gradients = gradients_of(params, *args, **kwargs)
        losses, aux = values if has_aux else (values, None)
        given = signals(aux) if callable(signals) else signals or {}
        transformation = combine(rule, tuple(losses))
        rows = [gradients[name] for name in losses]
        return values, transformation.update(rows, transformation.init(params), params, losses=losses, **given)[0]

    return combined


def _one_function(losses_fn: Losses, has_aux: bool) -> Callable[..., tuple[dict[str, jax.Array], Any]]:
    if isinstance(losses_fn, Mapping):
        if has_aux:
            raise TypeError("has_aux needs one function that returns (losses, aux); got a mapping of functions")
        functions = dict(losses_fn)
        return lambda *args, **kwargs: (_checked({n: f(*args, **kwargs) for n, f in functions.items()}), None)

    def function(*args: Any, **kwargs: Any) -> tuple[dict[str, jax.Array], Any]:
        losses, aux = losses_fn(*args, **kwargs) if has_aux else (losses_fn(*args, **kwargs), None)
        return _checked(losses), aux

    return function


def _checked(losses: object) -> dict[str, jax.Array]:
    if not isinstance(losses, Mapping):
        raise TypeError(f"losses must be a mapping name -> scalar; got {type(losses).__name__}")
    if not losses:
        raise ValueError("losses must name at least one loss; got an empty mapping")
    for name, loss in losses.items():
        if jnp.size(loss) != 1:
            raise ValueError(f"the loss {name!r} must be a scalar; got shape {jnp.shape(loss)}: reduce it first")
        if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise TypeError(f"the loss {name!r} must be real and floating-point; got {jnp.result_type(loss)}")
    return {name: jnp.reshape(loss, ()) for name, loss in losses.items()}


Found: TypeAlias = tuple[tuple[dict[str, jax.Array], Any], dict[str, list[Any]]]


def _each(function: Callable[..., Any], params: list[Any]) -> Found:
    order: list[str] = []

    def first(params: list[Any]) -> tuple[jax.Array, Any]:
        losses, aux = function(params)
        order[:] = losses
        return losses[order[0]], (losses, aux)

    (_, (losses, aux)), gradient = jax.value_and_grad(first, has_aux=True)(params)
    found = {order[0]: gradient}
    for name in order[1:]:
        found[name] = jax.grad(lambda params, name=name: function(params)[0][name])(params)
    # mappings come back sorted by name from a transform
    return ({name: losses[name] for name in order}, aux), found


def _pulled(function: Callable[..., Any], params: list[Any]) -> tuple[list[str], Any, Any, Any]:
    order: list[str] = []

    def stacked(params: list[Any]) -> tuple[jax.Array, Any]:
        losses, aux = function(params)
        order[:] = losses
        return jnp.stack(list(losses.values())), aux

    values, pull, aux = jax.vjp(stacked, params, has_aux=True)
    return order, values, pull, aux


def _one_hot(values: jax.Array) -> jax.Array:
    """One cotangent for each value; where values differ from device to device (`jax.shard_map`), so must these."""
    return jnp.eye(len(values), dtype=values.dtype) * jnp.ones_like(values)


def _vmap(function: Callable[..., Any], params: list[Any]) -> Found:
    order, values, pull, aux = _pulled(function, params)
    [rows] = jax.vmap(pull)(_one_hot(values))
    found = {name: [row[i] for row in rows] for i, name in enumerate(order)}
    return ({name: values[i] for i, name in enumerate(order)}, aux), found


def _vjp(function: Callable[..., Any], params: list[Any]) -> Found:
    order, values, pull, aux = _pulled(function, params)
    unit = _one_hot(values)
    found = {name: pull(unit[i])[0] for i, name in enumerate(order)}
    return ({name: values[i] for i, name in enumerate(order)}, aux), found


_MODES: dict[str, Callable[[Callable[..., Any], list[Any]], Found]] = {"each": _each, "vmap": _vmap, "vjp": _vjp}
