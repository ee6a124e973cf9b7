"""`combine`: a rule as the first transformation of a chain."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..rule import (
    CoordinateRule,
    Rule,
    Signals,
    State,
    StatefulRule,
    check_in_range,
    check_weights,
    is_module,
    refuse_averages,
)
from .rows import (
    Rows,
    Tree,
    check_not_reduced,
    gram_dtype,
    gram_matrix,
    is_row_leaf,
    names_of,
    rows_of,
    statistics,
    weighted_sum,
)

__all__ = ["CombineState", "combine"]


class CombineState(NamedTuple):
    """What `combine` remembers, all of it arrays: for any checkpoint, and to be looked at.

    ``optax.tree_utils.tree_get(opt_state, "weights")`` finds a field wherever it lies in the state of a chain.
    """

    rule_state: State
    """What the rule remembers; empty for most."""

    step: jax.Array
    """How many steps have been taken, an integer."""

    losses: jax.Array
    """(m,) losses of the last step; NaN where none were passed."""

    gram: jax.Array
    """(m, m) inner products of the gradients, at the last step that computed them."""

    weights: jax.Array
    """(m,) weights of the last step; NaN for a rule that acts on coordinates."""


def combine(
    rule: Rule,
    names: Sequence[str] | int,
    *,
    refresh_every: int = 1,
    axis_name: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The gradients of m losses become one update, ``sum_i w_i g_i``, with the weights that the rule gives them.

    Put it first in a chain. It takes the gradients by name, as `loss_gradients` returns them; or one tree whose leaves
    have a leading axis of m, shape (m, *parameter); or, where ``params`` are passed to ``update``, a list of m trees.
    What it hands on has the structure of the parameters.

    Inner products are formed in float32 at least. A complex entry counts as its real and imaginary parts, as in torch.
    Leaves of integers are left alone. If any entry of the Gram matrix is not finite, every update is NaN.

    The rule's signals are keyword arguments of ``update``; those that it does not declare are left to the other
    transformations of the chain. ``losses``, a mapping by name or an (m,) array, is one of them.

    Args:
        rule: how to weight the losses.
        names: of the losses, in the order of the rows; or m, for losses that have none: their names are "0" to "m-1"
            then, and the gradients a list of trees or one stacked tree.
        refresh_every: n holds the weights for the n - 1 steps after the one that found them, without the Gram matrix
            and the rule.
        axis_name: of the mapped axis of `jax.pmap`, `jax.vmap` or ``jax.shard_map(..., check_vma=False)`` over which
            gradients, losses and signals are averaged before anything is decided. Not needed where the batch is sharded
            under ``jax.jit``, nor where the losses have been averaged, as `jax.shard_map` wants it by default.
        fields: fields of the rule to be replaced, without a check, by numbers that may be traced: what
            `optax.inject_hyperparams` needs.

    Raises:
        TypeError: ``rule`` is not a rule, one of torch's modules, or asks for averages of gradients; a signal that it
            needs is missing.
        ValueError: no losses, or a name twice; updates without the leading axis; names that do not match; gradients
            that `jax.shard_map` has summed over ``axis_name`` already; outside of ``jax.jit``, a signal out of the
            rule's range.

    Example:
        >>> from gradweight.rules import AngleBisector
        >>> opt = optax.chain(combine(AngleBisector(), ("data", "pde")), optax.sgd(0.1))
        >>> params = {"w": jnp.zeros(2)}
        >>> state = opt.init(params)
        >>> gradients = {"data": {"w": jnp.array([2.0, 0.0])}, "pde": {"w": jnp.array([0.0, 8.0])}}
        >>> updates, state = opt.update(gradients, state, params)
        >>> optax.tree_utils.tree_get(state, "weights")
        Array([0.5  , 0.125], dtype=float32)
        >>> updates
        {'w': Array([-0.1, -0.1], dtype=float32)}
    """
    names = names_of(names, "combine")
    if refresh_every < 1:
        raise ValueError(f"combine needs refresh_every of at least 1; got {refresh_every}")
    at_work = _RuleAtWork(rule, names, fields)

    def init(params: Tree) -> CombineState:
        dtype, m = gram_dtype(params), len(names)
        gram = jnp.zeros((m, m), dtype)
        unknown = jnp.full(m, jnp.nan, dtype)
        return CombineState(at_work.init(gram), jnp.zeros((), jnp.int32), unknown, gram, jnp.zeros(m, dtype))

    def update(
        updates: Tree, state: CombineState, params: Tree | None = None, *, losses: Any = None, **extra_args: Any
    ) -> tuple[Tree, CombineState]:
        rows = rows_of(updates, names, params)
        signals = {name: value for name, value in extra_args.items() if name in at_work.passed}
        if losses is not None:
            signals["losses"] = _losses(losses, names, state.losses.dtype)
        at_work.check(signals)
        if axis_name is not None:
            check_not_reduced(rows, axis_name)
            rows, signals = jax.lax.pmean((rows, signals), axis_name)  # type: ignore[no-untyped-call]

        def found() -> tuple[Tree, CombineState]:
            return at_work(rows, state, signals)

        def held() -> tuple[Tree, CombineState]:
            direction = weighted_sum(state.weights, rows)
            direction = _nan_unless(_finite(direction), direction)
            return direction, state._replace(losses=signals.get("losses", jnp.full_like(state.losses, jnp.nan)))

        if refresh_every == 1 or at_work.acts_on_coordinates:
            direction, new = found()
        else:
            direction, new = jax.lax.cond(state.step % refresh_every == 0, found, held)
        return direction, new._replace(step=optax.safe_increment(state.step))

    return optax.GradientTransformationExtraArgs(init, update)


class _RuleAtWork:
    """A rule, the names of its losses, and which of the arguments of ``update`` are its signals."""

    def __init__(self, rule: Rule, names: tuple[str, ...], fields: Mapping[str, Any] | None) -> None:
        if is_module(rule) or type(rule).__name__ == "FromTorchJD":
            raise TypeError(
                f"combine needs a rule of array code; {type(rule).__name__} keeps its state in torch, where JAX cannot "
                "trace it"
            )
        refuse_averages(rule, "combine", "use gradweight.MultiObjectiveGradient in torch, or a rule without averages")
        self.signals = Signals.of(rule)
        self.rule, self.names = _with_fields(rule, fields or {}), names
        self.acts_on_coordinates = isinstance(rule, CoordinateRule)
        self._stateful = isinstance(rule, StatefulRule)
        supplied = {"names", "step", "offset", "reaches", "max_abs", "mean_abs"}
        self._supplied = supplied
        # a rule that takes any signal may be shown what is meant for others, whose shapes it cannot know
        self.passed = self.signals.known - supplied - {"losses"}

    def init(self, gram: jax.Array) -> State:
        """The rule's state before the first step, whose numbers the first Gram matrix replaces."""
        return self.rule.init(gram) if self._stateful else {}  # type: ignore[union-attr]

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise `TypeError` unless nothing is missing, `ValueError` if a number is out of its range.

        Under ``jax.jit`` there are no numbers, and reading another device's would wait for it.
        """
        for missing in sorted(self.signals.required - self._supplied - set(given)):
            got = sorted(given) or "no signals"
            raise TypeError(f"{self.signals.rule} needs the signal {missing!r}; update() was given {got}")
        for name in getattr(self.rule, "ranges", {}).keys() & given.keys():
            if jnp.size(given[name]) == 1 and _is_on_host(given[name]):
                check_in_range(self.rule, name, np.asarray(given[name]).item())

    def __call__(self, rows: Rows, state: CombineState, signals: dict[str, Any]) -> tuple[Tree, CombineState]:
        gram = gram_matrix(rows)
        finite = jnp.isfinite(gram).all()
        losses = signals.get("losses", jnp.full_like(state.losses, jnp.nan))
        given: dict[str, Any] = {name: jnp.asarray(value, gram.dtype) for name, value in signals.items()}
        given = given | {"names": self.names, "step": state.step, "reaches": None, "offset": 0}
        if self.signals.statistics:
            given |= statistics(rows)
        given = {name: value for name, value in given.items() if name in self.signals.known}
        new = state._replace(losses=losses, gram=gram)
        if self.acts_on_coordinates:
            return _nan_unless(finite, self._by_coordinate(rows, given)), new._replace(
                weights=jnp.full_like(state.weights, jnp.nan)
            )
        rule: Any = self.rule
        if self._stateful:
            # as in torch: what a rule starts from may depend on the first Gram matrix
            first = rule.init(gram)
            before = jax.tree.map(lambda a, b: jnp.where(state.step == 0, a, b), first, state.rule_state)
            weights, after = rule.update(gram, before, **given)
            after = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), after, state.rule_state)
            new = new._replace(rule_state=after)
        else:
            weights = rule(gram, **given)
        if not isinstance(weights, jax.Array):
            raise TypeError(f"{self.signals.rule} must return weights as a JAX array; got {type(weights).__name__}")
        check_weights(jnp.asarray(weights), self.signals.rule, jnp.asarray(gram))
        weights = jnp.where(finite, weights, jnp.nan).astype(gram.dtype)
        return weighted_sum(weights, rows), new._replace(weights=weights)

    def _by_coordinate(self, rows: Rows, given: dict[str, Any]) -> Tree:
        offset = 0

        def direction(*leaves: jax.Array) -> jax.Array:
            nonlocal offset
            if not is_row_leaf(leaves[0]) or leaves[0].size == 0:
                return leaves[0]
            stacked, like = jnp.stack(leaves), leaves[0]
            if jnp.iscomplexobj(like):
                stacked = jnp.stack([stacked.real, stacked.imag], axis=-1)
            own = given | ({"offset": offset} if "offset" in self.signals.known else {})
            offset += stacked[0].size
            found = self.rule.combine(stacked, **own)  # type: ignore[union-attr]
            if found.shape != stacked.shape[1:]:
                raise ValueError(
                    f"{self.signals.rule} must return the direction of a parameter, shape {stacked.shape[1:]}; "
                    f"got shape {found.shape}"
                )
            return jax.lax.complex(found[..., 0], found[..., 1]) if jnp.iscomplexobj(like) else found

        return jax.tree.map(direction, *rows)


def _with_fields(rule: Rule, fields: Mapping[str, Any]) -> Rule:
    if not fields:
        return rule
    changed = copy.copy(rule)
    for name, value in fields.items():
        if not hasattr(rule, name):
            raise TypeError(f"{type(rule).__name__} has no field {name!r}")
        # what checks the fields cannot look at numbers that are traced
        object.__setattr__(changed, name, value)
    return changed


def _losses(losses: Any, names: tuple[str, ...], dtype: Any) -> jax.Array:
    if isinstance(losses, Mapping):
        if set(losses) != set(names):
            raise ValueError(f"combine was made for the losses {list(names)}; got losses {sorted(map(str, losses))}")
        losses = jnp.stack([jnp.asarray(losses[name]).reshape(()) for name in names])
    found = jnp.asarray(losses, dtype)
    if found.shape != (len(names),):
        raise ValueError(f"combine needs one loss for each of {list(names)}; got shape {found.shape}")
    return found


def _is_on_host(value: Any) -> bool:
    if not isinstance(value, jax.Array):
        return True
    return not isinstance(value, jax.core.Tracer) and {d.platform for d in value.devices()} == {"cpu"}


def _finite(tree: Tree) -> jax.Array:
    return jnp.isfinite(jnp.stack([jnp.sum(jnp.abs(x)) for x in jax.tree.leaves(tree) if is_row_leaf(x)])).all()


def _nan_unless(finite: jax.Array, tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.nan).astype(x.dtype) if is_row_leaf(x) else x, tree)
