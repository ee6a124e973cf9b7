"""What a rule is, and how it asks for what it needs.

A rule turns the Gram matrix of the per-loss gradients into one weight for each loss. It comes in one of three
shapes, and the shape alone says which it is:

- a **callable** ``(gram, /, *, <signals>) -> weights``, a pure function of an (m, m) matrix: nearly every rule;
- a `StatefulRule`, which remembers something from step to step: ``init(gram) -> state`` and
  ``update(gram, state, /, *, <signals>) -> (weights, state)``, the state a dict of tensors, passed and returned;
- a `CoordinateRule`, which needs the gradients themselves: ``combine(rows, /, *, <signals>) -> direction``.

A `StatefulRule` may ask for averages of the gradients over the steps in their place: then it has a method ``average``,
too, and is an `AveragingRule`.

The keyword-only parameters are the rule's **signals**. `names` (a tuple of str), `losses` (an (m,) array) and `step` (a
0-dim integer array: how many steps have been taken, for schedules and for draws that every process of a group and every
resumed run must repeat) are supplied automatically; so are `max_abs` and `mean_abs` (the largest and the mean absolute
entry of each gradient, (m,) arrays), which a Gram matrix does not hold, and, for a `CoordinateRule`, `offset` (an int:
how many coordinates of all parameters come before the ones given, for draws of their own) and `reaches` (an (m,) array:
which losses have a gradient at the parameter that is not zero, where the ones given are a part of it; else None).
Everything else is what the user passes to ``backward``: a GAN's ``real_score``, say. A parameter with a default is
optional, one without is required, and a rule with ``**signals`` takes whatever comes.

A rule of the first two shapes whose weights follow from losses and signals may say so with an attribute
``needs_gradients = False`` (a class variable, or set on a function). Its steps are then **one backward**, that of
the weighted sum, instead of one for each loss:

- it is shown the identity in place of the Gram matrix, since no single gradient is known, not even which are zero;
- `Combination.gram` is NaN, for the same reason;
- what must be finite, or every ``.grad`` is NaN, are the losses and the gradient of the weighted sum;
- over micro-batches, each has the weights that follow from the sum of the losses so far. If they do not depend on
  the losses of the step itself (`Uncertainty`, `DWA`), the direction is that of the big batch; if they do, the
  earlier micro-batches were weighted by what was known then. The state that is kept is that of the whole step.

With ``blocks=`` or ``shared=``, where the direction is not one weighted sum, all gradients are computed all the same;
so they are for a subclass with ``needs_gradients = True``, to have them in the `Combination`.

A rule that is pure array code (`array_namespace`) may say ``faster_on_numpy_from = 1`` in its class, which is not
inherited: where the Gram matrix of so many losses or more lies on the CPU, outside of transforms and compilation, it is
then shown NumPy arrays instead of tensors, the same numbers in the same precision. An operation on those costs a
fraction, and the solvers of `gradweight.rules` call LAPACK and end when they have converged, which on a device would
wait for the host.
"""

import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import array_api_compat
import numpy as np

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

__all__ = ["AveragingRule", "CoordinateRule", "Rule", "Signals", "StatefulRule", "array_namespace", "averaging"]

Array: TypeAlias = Any
"""An array of torch, NumPy or JAX, handled through what the Python array API standard has all three agree on."""

Names: TypeAlias = tuple[str, ...] | None
"""The signal `names` of a rule that can do without."""

State: TypeAlias = dict[str, Array]
"""What a stateful rule remembers: named arrays, nothing else, so that any checkpoint can hold it."""

# torch is nothing that the rules need: this is for whoever has it. A statement inside a function would do, and takes
# six times as long; what looks into `sys.modules` for it and then imports it cannot be traced by ``torch.compile``.
_TORCH_NAMESPACE = importlib.import_module("array_api_compat.torch") if "torch" in sys.modules else None

STATISTICS = frozenset({"max_abs", "mean_abs"})
"""The signals that are statistics of the gradients' entries, computed for a rule that declares one of them."""

BY_THEMSELVES = frozenset({"names", "losses", "step", "offset", "reaches"}) | STATISTICS
"""The signals that are supplied automatically."""


@runtime_checkable
class StatefulRule(Protocol):
    """A rule that remembers: ``init(gram) -> state``, ``update(gram, state, /, *, ...) -> (weights, state)``."""

    @property
    def init(self) -> Callable[[Array], State]:
        """The state before the first step, on the device and in the library of ``gram``."""

    @property
    def update(self) -> Callable[..., tuple[Array, State]]:
        """Weights and the next state; the state that came in stays as it was."""


@runtime_checkable
class AveragingRule(StatefulRule, Protocol):
    """A stateful rule on moving averages of the gradients, which are kept beside the parameters, mk numbers.

    ``average(state, /, *, ...) -> (keep, scale, state)`` says how each average goes on, two (m,) arrays:
    ``average_i <- keep_i average_i + scale_i g_i``, from 0. The state that it returns is the one that ``update`` is
    given in the same step, with the Gram matrix of the new averages; the direction is their weighted sum. All are kept
    once the optimizer has stepped, and stored, moved and sharded as its own state is.

    Its keyword-only parameters are some of ``losses`` (m,), of which those that are not due are NaN, ``norms`` (m,), of
    the gradients, and ``due`` (m,), 1 for each loss whose gradient the step has, else 0: its average stays as it is.

    With ``extrapolate(state) -> a``, 0-dim, of the state that ``update`` has returned, what is followed is
    ``d + a (d - d')``, d' the direction d of the step before, which is kept as the averages are.
    """

    @property
    def average(self) -> Callable[..., tuple[Array, Array, State]] | None:
        """How the averages go on; None if this one wants none."""


def averaging(rule: object) -> AveragingRule | None:
    """The rule, if it asks for averages of the gradients; else None."""
    return rule if isinstance(rule, AveragingRule) and callable(rule.average) else None


def refuse_averages(rule: object, who: str, instead: str) -> None:
    """Raise `TypeError` if the rule asks for averages of the gradients, which ``who`` does not keep."""
    if averaging(rule) is not None:
        raise TypeError(
            f"{who} keeps no averages of the gradients over the steps, as large as the parameters for each loss, which "
            f"{type(rule).__name__} asks for: {instead}"
        )


@runtime_checkable
class CoordinateRule(Protocol):
    """A rule that acts on coordinates: ``combine(rows, /, *, ...) -> direction``, (m, ...) -> (...)."""

    @property
    def combine(self) -> Callable[..., Array]:
        """The direction of one parameter from its m gradients (zeros where a loss does not reach it)."""


class Weights(Protocol):
    """What a rule returns, as far as a type checker is asked: a class that is called returns an instance, no array."""

    @property
    def shape(self) -> Any:
        """(m,)."""


Rule: TypeAlias = Callable[..., Weights] | StatefulRule | CoordinateRule


def array_namespace(array: Array) -> Any:
    """The array API namespace of ``array``.

    `array_api_compat.array_namespace`, with torch and NumPy answered first: its general look-up goes through caches
    that ``torch.compile`` warns about, and takes longer than ten operations on a small array.
    """
    if is_tensor(array):
        if _TORCH_NAMESPACE is not None:
            return _TORCH_NAMESPACE
        from array_api_compat import torch as namespace

        return namespace
    if isinstance(array, np.ndarray | np.generic):
        return _numpy_namespace()
    return array_api_compat.array_namespace(array)


def is_module(value: object) -> "TypeIs[torch.nn.Module]":
    """Whether this is a module of torch, by the same look."""
    library = sys.modules.get("torch")
    return library is not None and isinstance(value, library.nn.Module)


def is_tensor(value: object) -> "TypeIs[torch.Tensor]":
    """Whether this is a tensor of torch, which is not imported to find out: who has a tensor has imported it."""
    library = sys.modules.get("torch")
    return library is not None and isinstance(value, library.Tensor)


@functools.cache
def _numpy_namespace() -> Any:
    # it loads all of NumPy, which takes longer to import than this package
    return importlib.import_module("array_api_compat.numpy")


@dataclass(frozen=True)
class Signals:
    """The signals that a rule declares: which it requires, which it knows, whether it takes any."""

    rule: str
    required: frozenset[str]
    known: frozenset[str]
    takes_any: bool

    @staticmethod
    def of(rule: Rule) -> "Signals":
        """Read the declaration off the rule's signature.

        Raises:
            TypeError: ``rule`` is none of the three shapes.
        """
        name = str(getattr(rule, "__name__", type(rule).__name__))
        if isinstance(rule, type):
            raise TypeError(f"a rule must be an instance; got the class {name}: write {name}()")
        if isinstance(rule, StatefulRule):
            function: Callable[..., Any] = rule.update
        elif isinstance(rule, CoordinateRule):
            function = rule.combine
        elif is_module(rule):
            function = rule.forward  # its __call__ is (*args, **kwargs), whatever the module takes
        elif callable(rule):
            function = rule
        else:
            raise TypeError(
                "a rule must be callable as rule(gram) -> weights, or have init and update, or have combine; "
                f"got an instance of {name}"
            )
        required, known, takes_any = set(), set(), False
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # a builtin that has none
            parameters = inspect.signature(lambda gram, /: gram).parameters.values()
        for parameter in parameters:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                takes_any = True
            elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                known.add(parameter.name)
                if parameter.default is inspect.Parameter.empty:
                    required.add(parameter.name)
        return Signals(name, frozenset(required), frozenset(known), takes_any)

    def check(self, given: Collection[str], caller: str, by_themselves: Collection[str] = BY_THEMSELVES) -> None:
        """Raise `TypeError` unless ``given`` has every signal that the rule requires and none that it does not know.

        Args:
            given: names of the signals that the user passed.
            caller: who was called, for the message.
            by_themselves: names of the signals that the caller adds, which the user must not pass.
        """
        got = sorted(given) or "no signals"
        for missing in sorted(self.required.difference(given, by_themselves)):
            raise TypeError(f"{self.rule} needs the signal {missing!r}; {caller} was given {got}")
        own = sorted(self.known.difference(by_themselves))
        for unknown in sorted(set(given).difference(own)):
            if unknown in by_themselves or not self.takes_any:
                raise TypeError(
                    f"{self.rule} has no signal {unknown!r}; it takes {own or 'none'}, and {caller} was given {got}"
                )

    @property
    def statistics(self) -> bool:
        """Whether the rule declares a statistic of the gradients' entries."""
        return not STATISTICS.isdisjoint(self.known)

    def select(self, signals: Mapping[str, Any]) -> dict[str, Any]:
        """The part of ``signals`` that the rule declares, so that a bare ``lambda gram: ...`` is a rule too."""
        return {name: value for name, value in signals.items() if self.takes_any or name in self.known}


def faster_on_numpy_from(rule: Rule) -> float:
    """From how many losses on the rule says that NumPy is faster; not at all if its own class says nothing.

    A subclass may have overridden array code by code of torch, so that it is not inherited.
    """
    own: float = getattr(rule, "faster_on_numpy_from", math.inf)
    return own if "faster_on_numpy_from" in vars(type(rule)) else math.inf


_ROUNDING = 1e-3


def check_in_range(rule: object, name: str, value: float) -> None:
    """Raise `ValueError` if a number lies outside of what the rule's ``ranges`` say about the signal; NaN does not."""
    low, high = getattr(rule, "ranges", {}).get(name, (-math.inf, math.inf))
    # a mean of ones may be rounded to a little more than 1
    if value < low - _ROUNDING or value > high + _ROUNDING:
        raise ValueError(
            f"{type(rule).__name__} needs the signal {name!r} in [{low}, {high}]; got {value}. Of logits, "
            "probability_scores of gradweight.gan (in JAX, of gradweight.optax.gan) makes such signals; of a critic's "
            "scores, critic_scores"
        )


def rules_inside(rule: object) -> tuple[Any, ...]:
    """The rules that one is wrapped round: its ``rule``, or several ``rules``."""
    inner = getattr(rule, "rule", None)
    return tuple(getattr(rule, "rules", () if inner is None else (inner,)))


def check_weights(weights: object, rule: str, gram: Array) -> None:
    """Raise unless ``weights`` has one entry per loss and comes from the library that the Gram matrix is of."""
    if not isinstance(weights, type(gram)) and type(weights).__module__ != type(gram).__module__:
        raise TypeError(f"{rule} must return weights as a {type(gram).__name__}; got {type(weights).__name__}")
    dtype = weights.dtype  # type: ignore[attr-defined]
    # of NumPy and JAX by its kind: integers, bool and complex; what JAX adds, such as bfloat16, is none of these
    if not getattr(dtype, "is_floating_point", getattr(dtype, "kind", "f") not in "iubc"):
        raise TypeError(f"{rule} must return real floating-point weights; got {dtype}")
    shape, needed = tuple(weights.shape), tuple(gram.shape[:-1])  # type: ignore[attr-defined]
    if shape != needed:
        hint = " (was it given a signal that is not 0-dim?)" if len(shape) > len(needed) else ""
        raise ValueError(f"{rule} must return one weight per loss, shape {needed}; got shape {shape}{hint}")
