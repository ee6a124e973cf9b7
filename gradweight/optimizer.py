"""MultiObjectiveGradient: the wrapper that gives an existing optimizer several named losses."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .accumulation import Accumulated
from .base import check_base, names_of
from .combination import Combination
from .gradients import ENGINES, Losses, check_losses, loss_gradients
from .join import Joined, join
from .rows import combine, combine_by_coordinate, gram, in_place_targets, kept_targets
from .rule import CoordinateRule, Rule, Signals, State, StatefulRule, check_weights

__all__ = ["MultiObjectiveGradient"]

STATE_KEY = "rule_state"
"""Where a rule's state lies in ``param_groups[0]``: checkpoints keep what is in `state` and `param_groups` only."""


@dataclass
class _Pending:
    """The step under way.

    One object that is changed and never replaced: training frameworks run our methods with a proxy as `self`.
    """

    accumulated: Accumulated | None = None
    backward_done: bool = False
    written: dict[Tensor, Tensor] = field(default_factory=dict)
    rule_state: State = field(default_factory=dict)
    versions_after_step: list[int] | None = None
    joined: weakref.ref[Joined] | None = None
    last: Combination | None = None

    def clear(self) -> None:
        """Forget the gradients that have accumulated."""
        vars(self).update(vars(_Pending(joined=self.joined, last=self.last)))

    def versions(self) -> list[int]:
        """How often each tensor that we laid into a ``.grad`` has been written to."""
        return [tensor._version for tensor in self.written.values()]


class MultiObjectiveGradient(Optimizer):
    """An optimizer that follows a direction combined from the gradients of several named losses.

    With ``g_i`` the gradient of loss i at the parameters, ``G[i, j] = <g_i, g_j>`` and ``w = rule(G)``, `backward`
    lays ``sum_i w_i g_i`` into ``.grad``, and `step` is the base optimizer's own. Everything that holds for the
    base (parameter groups, schedulers, clipping, checkpoints) holds for the wrapper: its `param_groups`, `state`
    and `defaults` *are* the base's.

    Gradients of micro-batches add up **per loss** until `zero_grad`, and ``.grad`` is always the combination of
    the sums, so that accumulation gives the direction of the big batch. Signals are averaged over micro-batches.

    Memory beyond a plain step, for m losses and k parameters: the m rows that autograd returned, mk, are kept until
    `zero_grad`, and the direction has a buffer of k that is kept between steps. Its tensors are what ``.grad``
    holds, so a reference to a ``.grad`` sees the next step's values. With ``accumulate=False`` the direction is
    formed in place in the first row and the others are dropped: (m - 1)k at the peak and no buffer, for steps of
    exactly one `backward`.

    Args:
        base: the optimizer to wrap. Not one that must re-evaluate the loss in a closure (LBFGS).
        rule: how to weight the losses; see `gradweight.rules`, or any callable ``gram -> weights``.
        engine: "autograd", "func" or "hooks" (see `gradweight.gradients`); "auto" takes "func" for losses that are
            functions, "hooks" for reentrant checkpoints and sharded parameters, and "autograd" for the rest.
        params: pairs (name, parameter), such as ``module.named_parameters()``: the names by which losses that are
            functions receive the parameters. By default those that ``base`` was built with, if any.
        accumulate: False says that every step is one `backward`; see above.

    Raises:
        TypeError: ``base`` is not an optimizer or needs closures; ``rule`` is not a rule.
        ValueError: unknown ``engine``; ``params`` lacks a parameter of the base.

    Example:
        >>> from gradweight.rules import AngleBisector
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
        >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> opt.zero_grad()
        >>> seen = opt.backward({"a": net(a).sum(), "b": net(b).sum()})
        >>> seen.weights
        tensor([0.3333, 0.2500])
        >>> net.weight.grad
        tensor([[1., 1.]])
        >>> opt.step()
    """

    # A forwarded True makes GradScaler leave the inf check to the base, which then writes NaN into the parameters.
    _step_supports_amp_scaling = False

    def __init__(
        self,
        base: Optimizer,
        rule: Rule,
        *,
        engine: str = "auto",
        params: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None = None,
        accumulate: bool = True,
    ) -> None:
        # Optimizer.__init__ is not called: it would make param_groups, state and defaults of our own, and the base
        # rebinds its own on load_state_dict, so copies and aliases go stale. What else it sets up is set up below.
        check_base(base)
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {list(ENGINES)}; got {engine!r}")
        self.base = base
        self.rule = rule
        self.engine = engine
        self.accumulate = accumulate
        self._signals = Signals.of(rule)
        self._names = names_of(base, params)
        self._kept: dict[Tensor, Tensor] = {}
        self._pending = _Pending()
        self._fill_hook_tables()

    @property
    def last(self) -> Combination | None:
        """What the last `backward` returned; None before the first."""
        return self._pending.last

    # ---- the one way of the data: losses -> gradients -> gram -> rule -> weights -> .grad

    def backward(
        self, losses: Losses, *, scaler: Any = None, retain_graph: bool = False, **signals: Tensor | float
    ) -> Combination:
        """Compute each loss's gradient, combine what has accumulated, and lay the direction into ``.grad``.

        Args:
            losses: a mapping name -> scalar tensor; or name -> function of the parameters, a dict of named tensors;
                or one such function that returns a mapping name -> scalar. Separate functions are run one forward
                and backward after the other; one function is run once.
            scaler: a `torch.amp.GradScaler`; ``.grad`` is then scaled as after ``scaler.scale(loss).backward()``,
                while the rule and the `Combination` see everything unscaled.
            retain_graph: keep the graphs for another backward.
            **signals: what the rule declares beyond `names` and `losses`; 0-dim tensors or numbers.

        Returns:
            What was seen and decided, also kept as `last`.

        ``.grad`` is replaced, whatever it held; for a parameter that no loss reaches it is None. If any gradient is
        not finite, every ``.grad`` that is written is NaN, so that nothing steps by half.

        Raises:
            TypeError: a loss that is not a tensor (or function), a missing or unknown signal, tensors for
                ``engine="func"``.
            ValueError: no losses; a loss that is not scalar, has no graph or reaches no parameter; other names than
                on the micro-batches before; a rule that returns another shape than (m,); functions but no
                parameter names.
            RuntimeError: a second `backward` in one step although ``accumulate=False``; ``engine="autograd"`` with a
                reentrant checkpoint.

            Parameters, gradients, accumulated rows and the rule's state are then as they were before the call.
        """
        self._signals.check(signals, "backward()")
        scale = None if scaler is None else scaler.scale(torch.ones((), device=self._params()[0].device))
        return self._gather(losses, signals, scale, retain_graph=retain_graph)

    def join(self, losses: Mapping[str, Tensor], **signals: Tensor | float) -> Tensor:
        """One scalar, the sum of the losses, whose ``.backward()`` does what `backward` does.

        For training frameworks that call ``.backward()`` themselves: return this as the loss. Whatever the host
        multiplies it by (a loss scale, 1 / accumulation steps) scales ``.grad`` and is undone for the rule, which
        sees the mean over the micro-batches.

        Args:
            losses: a mapping name -> scalar tensor.
            **signals: as for `backward`.

        Returns:
            A 0-dim tensor. Under ``torch.no_grad()`` (validation, say) it is the plain sum.

        Raises:
            TypeError, ValueError: as for `backward`, at once where the losses tell, else when the host goes backward.
            RuntimeError: the scalar of an earlier `join` is still waiting for its backward.

        Example:
            >>> from gradweight.rules import AngleBisector
            >>> net = torch.nn.Linear(2, 1, bias=False)
            >>> opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
            >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
            >>> loss = opt.join({"a": net(a).sum(), "b": net(b).sum()})
            >>> loss.backward()
            >>> net.weight.grad
            tensor([[1., 1.]])
        """
        self._signals.check(signals, "join()")
        if not torch.is_grad_enabled():
            return torch.stack([loss.detach().reshape(()) for loss in losses.values()]).sum()
        values = check_losses(losses)
        waiting = None if self._pending.joined is None else self._pending.joined()
        if waiting is not None and not waiting.done:
            raise RuntimeError(
                f"join() was called for {list(values)} while the scalar that it returned for {list(waiting.losses)} "
                "still waits for its backward: put all losses of a step into one mapping, and call backward() on what "
                "join() returns"
            )
        scalar, self._pending.joined = join(
            Joined(values, lambda losses, cotangent: self._gather(losses, signals, cotangent, joined=True))
        )
        return scalar

    def _gather(
        self,
        losses: Losses,
        signals: Mapping[str, Tensor | float],
        scale: Tensor | None,
        *,
        retain_graph: bool = False,
        joined: bool = False,
    ) -> Combination:
        pending = self._noticed()
        if pending.backward_done and not self.accumulate:
            raise RuntimeError(
                "accumulate=False says that a step is one backward(), which combines in place; this is the second one "
                "before step() or zero_grad(): use accumulate=True to add up micro-batches"
            )
        params = self._params()
        names = [self._names[p] for p in params] if all(p in self._names for p in params) else None
        gradients = loss_gradients(
            losses, params, names=names, engine=self.engine, scale=scale, retain_graph=retain_graph
        )
        new = Accumulated.of(gradients, params, signals, scale, joined)
        accumulated = new if pending.accumulated is None else pending.accumulated.plus(new)
        return self._combine(accumulated, in_place=not self.accumulate and not retain_graph)

    def _params(self) -> list[Tensor]:
        params = [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]
        if not params:
            raise ValueError("backward() needs a parameter that requires a gradient; the base optimizer has none")
        return params

    def _combine(self, accumulated: Accumulated, in_place: bool) -> Combination:
        names, params, rows = accumulated.names, accumulated.params, accumulated.rows
        matrix, losses = accumulated.unscaled(gram(rows))
        signals = {name: value.to(matrix) for name, value in accumulated.signals.items()}
        if "step" in self._signals.known:
            signals["step"] = self._steps_taken(matrix.device)
        given = self._signals.select({"names": names, "losses": losses, **signals})
        finite = torch.isfinite(matrix).all()

        targets = in_place_targets(rows, params) if in_place else kept_targets(rows, params, self._kept)
        weights, state = self._weights(matrix, names, given)
        if isinstance(self.rule, CoordinateRule):
            combine_by_coordinate(functools.partial(self.rule.combine, **given), rows, finite, targets)
        else:
            weights = torch.where(finite, weights, torch.nan)
            combine(rows, weights, targets)

        # nothing below can fail: what came before has only read what a failure must leave as it was
        for p, target in zip(params, targets, strict=True):
            p.grad = target
        pending = self._pending
        pending.accumulated = accumulated if self.accumulate else None
        pending.backward_done = True
        pending.rule_state = state
        pending.versions_after_step = None
        pending.written = {p: target for p, target in zip(params, targets, strict=True) if target is not None}
        pending.last = Combination(names, losses, matrix, weights)
        return pending.last

    def _weights(self, matrix: Tensor, names: tuple[str, ...], given: dict[str, Any]) -> tuple[Tensor, State]:
        """The rule's weights, and the entries of its saved state that this step changes."""
        changed: State = {}
        if "step" in given:
            changed["step"] = given["step"] + 1
        if isinstance(self.rule, CoordinateRule):
            return torch.full_like(matrix[0], torch.nan), changed
        if isinstance(self.rule, StatefulRule):
            # one state for each set of losses: a penalty that is due now and then must not reset the other steps'
            key = "state of " + "~".join(names)
            state = self._saved().get(key)
            weights, changed[key] = self.rule.update(
                matrix, self.rule.init(matrix) if state is None else state, **given
            )
        else:
            weights = self.rule(matrix, **given)
        check_weights(weights, self._signals.rule, matrix)
        return weights.detach().to(matrix), changed

    def _saved(self) -> State:
        saved: State = self.base.param_groups[0].get(STATE_KEY, {})
        return saved

    def _steps_taken(self, device: torch.device) -> Tensor:
        steps = self._saved().get("step")
        return torch.zeros((), dtype=torch.int64, device=device) if steps is None else steps.to(device)

    def _noticed(self) -> _Pending:
        """The step under way, cleared if ``model.zero_grad()`` has cleared the gradients behind our back."""
        pending = self._pending
        replaced = pending.written and not any(p.grad is t for p, t in pending.written.items())
        zeroed_in_place = pending.versions_after_step not in (None, pending.versions())
        if replaced or zeroed_in_place:
            pending.clear()
        return pending

    # ---- the optimizer's own interface, handed to the base

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer along ``.grad``; with nothing pending, a plain step of the base.

        Args:
            closure: re-evaluates the model, calling `zero_grad` and `backward` itself, and returns a loss to report.
        """
        result = self.base.step() if closure is None else self.base.step(closure)
        pending = self._pending
        if pending.rule_state:
            self.base.param_groups[0][STATE_KEY] = self._saved() | pending.rule_state
            pending.rule_state = {}
        if self.accumulate:
            pending.versions_after_step = pending.versions()
        else:
            pending.backward_done = False
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients that have accumulated, per loss and in ``.grad``."""
        self._pending.clear()
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state dict, which loads into the bare base as well; a rule's state travels in it."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        state_dict = self.base.state_dict()
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict`, or the bare base's, returned."""
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            replaced = pre_hook(self, state_dict)
            state_dict = state_dict if replaced is None else replaced
        self.base.load_state_dict(state_dict)
        self._pending.rule_state = {}
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base; its parameters take part from the next `backward` on."""
        self.base.add_param_group(param_group)
        self._names |= names_of(self.base, None)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's parameter groups themselves."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.base.param_groups = groups

    @property
    def state(self) -> Any:
        """The base optimizer's state itself."""
        return self.base.state

    @state.setter
    def state(self, state: Any) -> None:
        self.base.state = state

    @property
    def defaults(self) -> dict[str, Any]:
        """The base optimizer's defaults themselves."""
        return self.base.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.base.defaults = defaults

    def __repr__(self) -> str:
        return f"MultiObjectiveGradient({self.base!r}, {self.rule!r})"

    def __getstate__(self) -> dict[str, Any]:
        # a scheduler leaves its wrapper of step() on the instance, and hooks are not pickled by any optimizer
        skip = {"step", "_zero_grad_profile_name"} | {name for name in self.__dict__ if name.endswith("_hooks")}
        return {name: value for name, value in self.__dict__.items() if name not in skip}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._fill_hook_tables()

    def _fill_hook_tables(self) -> None:
        self._optimizer_step_pre_hooks = OrderedDict()
        self._optimizer_step_post_hooks = OrderedDict()
        self._optimizer_state_dict_pre_hooks = OrderedDict()
        self._optimizer_state_dict_post_hooks = OrderedDict()
        self._optimizer_load_state_dict_pre_hooks = OrderedDict()
        self._optimizer_load_state_dict_post_hooks = OrderedDict()
        self._warned_capturable_if_run_uncaptured = True
        self._patch_step_function()
