"""`accumulate`: micro-batches whose gradients are summed loss by loss, and combined once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .combination import _losses
from .rows import Tree, gram_dtype, is_row_leaf, names_of, rows_of

__all__ = ["AccumulateState", "accumulate"]


class AccumulateState(NamedTuple):
    """What `accumulate` remembers."""

    micro_step: jax.Array
    """How many micro-batches have been added up."""

    ready: jax.Array
    """Whether the last call took a step."""

    inner_state: Any
    """The state of what takes the step."""

    rows: Tree
    """Sums of the gradients, each leaf (m, *parameter)."""

    losses: jax.Array
    """(m,) sums of the losses."""

    signals: dict[str, jax.Array]
    """Means of the signals, by name."""


def accumulate(
    inner: optax.GradientTransformation, every: int, names: Sequence[str] | int, signals: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """A step of ``inner`` for every n micro-batches, with the sum of the gradients of each loss.

    Losses are summed and signals averaged, so that the rule sees what it would see for the whole batch: divide each
    loss by n, as in a plain loop of torch. Between steps the updates are zeros and ``inner`` is left alone.

    `optax.MultiSteps` cannot do this: around the chain it makes room for gradients of the parameters' shape only, and
    behind `combine` it averages directions that each micro-batch had weighted for itself.

    Args:
        inner: a chain that begins with `combine`.
        every: n, at least 1.
        names: of the losses, or how many there are, as for `combine`.
        signals: names of the scalar signals that ``update`` is passed, to be averaged. Others go to ``inner`` as they
            are in the last micro-batch.

    Raises:
        ValueError: n below 1; no losses, or a name twice.

    Example:
        >>> from gradweight.optax import combine
        >>> from gradweight.rules import Sum
        >>> opt = accumulate(optax.chain(combine(Sum(), ("a", "b")), optax.sgd(1.0)), 2, ("a", "b"))
        >>> params = jnp.zeros(1)
        >>> state = opt.init(params)
        >>> gradients = {"a": jnp.array([1.0]), "b": jnp.array([2.0])}
        >>> updates, state = opt.update(gradients, state, params)
        >>> updates
        Array([0.], dtype=float32)
        >>> opt.update(gradients, state, params)[0]
        Array([-6.], dtype=float32)
    """
    names = names_of(names, "accumulate")
    m = len(names)
    if every < 1:
        raise ValueError(f"accumulate needs n of at least 1; got {every}")
    wrapped = optax.with_extra_args_support(inner)

    def zeros(params: Tree) -> tuple[Tree, jax.Array, dict[str, jax.Array]]:
        dtype = gram_dtype(params)
        rows = jax.tree.map(lambda p: jnp.zeros((m, *jnp.shape(p)), jnp.result_type(p)), params)
        return rows, jnp.zeros(m, dtype), {name: jnp.zeros((), dtype) for name in signals}

    def init(params: Tree) -> AccumulateState:
        return AccumulateState(jnp.zeros((), jnp.int32), jnp.zeros((), bool), wrapped.init(params), *zeros(params))

    def update(
        updates: Tree, state: AccumulateState, params: Tree | None = None, *, losses: Any = None, **extra_args: Any
    ) -> tuple[Tree, AccumulateState]:
        new = jax.tree.map(
            lambda *leaves: jnp.stack(leaves) if is_row_leaf(leaves[0]) else jnp.stack(leaves) * 0,
            *rows_of(updates, names, params),
        )
        rows = jax.tree.map(jnp.add, state.rows, new)
        total = state.losses + (jnp.nan if losses is None else _losses(losses, names, state.losses.dtype))
        means = {name: mean + jnp.asarray(extra_args[name], mean.dtype) / every for name, mean in state.signals.items()}
        ready = state.micro_step + 1 == every

        def step() -> tuple[Tree, AccumulateState]:
            more = {"losses": total} if losses is not None else {}
            found, inner_state = wrapped.update(rows, state.inner_state, params, **extra_args | means | more)
            cleared = jax.tree.map(jnp.zeros_like, (rows, total, means))
            return found, AccumulateState(jnp.zeros_like(state.micro_step), ready, inner_state, *cleared)

        def wait() -> tuple[Tree, AccumulateState]:
            nothing = jax.tree.map(lambda row: jnp.zeros_like(row[0]), rows)
            return nothing, AccumulateState(state.micro_step + 1, ready, state.inner_state, rows, total, means)

        return jax.lax.cond(ready, step, wait)  # type: ignore[no-any-return]

    return optax.GradientTransformationExtraArgs(init, update)
