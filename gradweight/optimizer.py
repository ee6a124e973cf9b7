"""MultiObjectiveGradient: the wrapper that gives an existing optimizer several named losses."""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from .combination import Combination
from .contract.arguments import check_count, check_flag, loss_scale
from .contract.base import checked_base
from .contract.calls import zero_grad
from .contract.classes import class_of
from .contract.hosts import explain_to_accelerate
from .contract.names import ParameterNames
from .contract.step_hooks import with_load_hooks, with_state_dict_hooks, with_step_hooks
from .contract.wrapper import OptimizerWrapper
from .distributed import Reduce, check_group
from .gradients.engines import Engine
from .gradients.losses import Losses
from .rule import Rule
from .step.blocks import Blocks, blocks_or_trunk
from .step.combiner import Combiner
from .step.replay import Replay
from .step.rule_state import load, save
from .step.settings import Settings
from .step.step import Step

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["MultiObjectiveGradient"]


class MultiObjectiveGradient(OptimizerWrapper):
    """An optimizer that follows a direction combined from the gradients of several named losses.

    With ``g_i`` the gradient of loss i at the parameters, ``G[i, j] = <g_i, g_j>`` and ``w = rule(G)``, `backward`
    writes ``sum_i w_i g_i`` to ``.grad``, and `step` is the base's own, as are `param_groups`, `state` and `defaults`.

    Gradients of micro-batches add up **per loss** until `zero_grad`, and ``.grad`` is always the combination of
    the sums, so that accumulation gives the direction of the big batch. Signals are averaged over micro-batches.

    Memory beyond a plain step, for m losses and k parameters: the m rows, mk, are kept until `zero_grad`, and the
    direction has a buffer of k that is kept between steps and is what ``.grad`` holds. With ``accumulate=False``, for
    steps of one `backward`, it is formed in place in the first row: (m - 1)k at the peak and no buffer.

    Args:
        base: the optimizer to wrap, or several of different parameters, such as Muon for matrices and AdamW for the
            rest: one combination over all, each stepping its own. Not one that must re-evaluate the loss in a closure
            (LBFGS), runs a backward pass of its own (SAM, LOMO) or takes sparse gradients only (SparseAdam).
        rule: how to weight the losses; see `gradweight.rules`, or any callable ``gram -> weights``.
        engine: "autograd", "batched", "func", "gram" or "hooks" (see `gradweight.gradients.engines`). "auto" is "func"
            for functions, "hooks" for reentrant checkpoints and sharded parameters, "batched" for vector losses and, on
            a GPU, for three losses and more on one small trunk, else "autograd"; `engine_used` says which. "gram" keeps
            no gradient of one loss: rules by the Gram matrix, one process, micro-batches through `join` with weights
            of their own.
        params: pairs (name, parameter), such as ``module.named_parameters()``: the names by which losses that are
            functions receive the parameters. By default those that ``base`` was built with, if any.
        accumulate: False says that every step is one `backward`; see above.
        blocks: one combination per "group" (parameter group) or "layer" (parameters with one prefix, such as
            ``trunk.0`` in ``trunk.0.weight``), or per value of a function of the parameter's name, for which None
            leaves the parameter alone: the plain sum of its gradients. Each block has its own Gram matrix and
            weights, so a rule's guarantee holds within every block, and where it is about angles or conflicts
            also for the whole, since inner products add up over blocks; a normalization holds per block only.
        trunk: the module that all losses share (or its parameters): the rule is shown the gradients at these, and
            every other parameter, those of the tasks' heads, is left alone. Instead of ``blocks``.
        refresh_every: n holds the weights for the n - 1 steps after the one that found them; those cost one backward
            of the weighted sum. Weights are found for each set of losses by itself. Exact: the direction is the one
            that these weights give. Approximate: the rule's guarantees are for the gradients of the step that was
            measured, and the Gram matrix in a held step's `Combination` is NaN. For losses that are tensors.
        history: how many of the last steps' `Combination` to keep in `history`, on the device, without a host sync.
        process_group: the data-parallel processes over which the gradient, the value and the signals of each loss are
            averaged, such as ``torch.distributed.group.WORLD``; see `gradweight.distributed`. Parameters that are
            sharded (FSDP2) bring their own. False says that every process trains a model of its own.
        reduce: how gradients are averaged: "all" or "scatter", which halves the traffic of many losses and keeps only
            a share of every row on each process.
        cuda_graphs: on CUDA, Gram matrix, rule and weighted sum are recorded when a kind of step (set of losses, say)
            comes for the second time, and replayed from then on: one launch instead of 30 to 500. The rule must be a
            function of what it is given, not changed afterwards. One that a graph cannot record, because it reads
            values back to the host, is launched operation by operation after a warning; with False, every rule is.

    Raises:
        TypeError: ``base`` is no optimizer, needs closures or sparse gradients, has float8 parameters; no ``rule`` or
            ``process_group``.
        ValueError: unknown ``engine`` or ``reduce``; ``params`` lacks a parameter of the base; bases that share one.

    Example:
        >>> import torch
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
    """

    def __init__(
        self,
        base: Optimizer | Sequence[Optimizer],
        rule: Rule,
        *,
        engine: Engine = "auto",
        params: Iterable[tuple[str, Tensor]] | Mapping[str, Tensor] | None = None,
        accumulate: bool = True,
        blocks: Blocks = None,
        trunk: nn.Module | Iterable[Tensor] | None = None,
        refresh_every: int = 1,
        history: int = 0,
        process_group: "ProcessGroup | bool | None" = None,
        reduce: Reduce = "all",
        cuda_graphs: bool = True,
    ) -> None:
        base = checked_base(base)
        group = check_group(process_group, reduce)
        combiner, names = Combiner(rule), ParameterNames(base, params)
        replay = Replay(combiner) if check_flag("cuda_graphs", cuda_graphs) else None
        blocks = blocks_or_trunk(base, blocks, trunk)
        settings = Settings(combiner, replay, names, engine, accumulate, blocks, refresh_every, group, reduce)
        super().__init__(base)
        self.rule = rule
        self.history: deque[Combination] = deque(maxlen=check_count("history", history, 0))
        self._step = Step(base, settings)

    @classmethod
    def of(cls, base: Callable[..., Optimizer | Sequence[Optimizer]], rule: Rule, **options: Any) -> type[Self]:
        """A class whose objects are ``base(...)`` wrapped, for hosts that build the optimizer; it can be pickled.

        Args:
            base, rule, **options: as for the wrapper, with a class or a function in place of the optimizers.

        Example:
            >>> import torch, gradweight.rules
            >>> Adam = MultiObjectiveGradient.of(torch.optim.Adam, gradweight.rules.AngleBisector())
            >>> Adam(torch.nn.Linear(2, 1).parameters(), lr=1e-3).param_groups[0]["lr"]
            0.001
        """
        return class_of(cls, base, rule, options)

    @property
    def last(self) -> Combination | None:
        """What the last `backward` returned; None before the first."""
        return self._step.last

    @property
    def engine_used(self) -> str | None:
        """The engine of the last `backward` that took one gradient per loss; None before the first."""
        return self._step.settings.auto.used

    def backward(
        self,
        losses: Losses,
        *,
        scaler: Any = None,
        retain_graph: bool = False,
        shared: Tensor | Sequence[Tensor] | None = None,
        **signals: Tensor | float,
    ) -> Combination:
        """Compute each loss's gradient, combine what has accumulated, and write the direction to ``.grad``.

        Args:
            losses: a mapping name -> scalar tensor, or vector of up to 1024 values, one per sample, each of which is a
                loss ``name[i]`` of its own; or name -> function of the parameters, a dict of named tensors;
                or one such function that returns a mapping as above. Separate functions are run one forward and
                backward after the other; one function is run once. A process or micro-batch without a loss
                passes None for it, which counts as zero: so tasks can be walked back one after the other.
            scaler: a `torch.amp.GradScaler`; ``.grad`` is then scaled as after ``scaler.scale(loss).backward()``, while
                the rule and the `Combination` see everything unscaled.
            retain_graph: keep the graphs for another backward.
            shared: a tensor (or several) through which all losses reach the trunk, such as the features that task
                heads share. The rule is then shown the gradients at this tensor, and there is one backward pass through
                the trunk instead of m.
                Exact: the trunk's direction is the weighted sum of its per-loss gradients for these weights.
                Approximate: the weights come from angles and norms at the tensor, not at the parameters. Each head
                is left alone, the plain sum of its gradients. One backward per step.
            **signals: what the rule declares beyond `names` and `losses`; 0-dim tensors or numbers.

        Returns: what was seen and decided, also kept as `last`.

        The direction is added to what others left in ``.grad``, as in torch; where no loss reaches, and in leaves that
        are not the base optimizer's, that stays as it is. If any gradient is not finite, every ``.grad`` that is
        written is NaN, so that GradScaler skips the step.

        Raises:
            TypeError: a loss that is no tensor (or function), a wrong signal or scaler, tensors for ``engine="func"``.
            ValueError: no losses; one that is not scalar, has no graph or reaches no parameter; other names than on the
                micro-batches before; weights of another shape than (m,); functions but no parameter names.
            RuntimeError: a second `backward` with ``accumulate=False``; ``.grad`` written to between micro-batches; a
                reentrant checkpoint with ``engine="autograd"``; processes without a group, or that failed or differ.

            Parameters, gradients, accumulated rows and the rule's state are then as they were before the call.
        """
        scale = None if scaler is None else loss_scale(scaler, self._step.params()[0].device)
        self._step.scaler = None if scaler is None else weakref.ref(scaler)
        return self._step.add(losses, signals, scale, shared=shared, retain_graph=retain_graph)

    def join(
        self,
        losses: Mapping[str, Tensor],
        *,
        shared: Tensor | Sequence[Tensor] | None = None,
        **signals: Tensor | float,
    ) -> Tensor:
        """One scalar, the sum of the losses, whose ``.backward()`` does what `backward` does.

        For training frameworks that call ``.backward()`` themselves: return this as the loss. Whatever the host
        multiplies it by (a loss scale, 1 / accumulation steps) scales ``.grad`` and is undone for the rule, which
        sees the mean over the micro-batches.

        Args:
            losses: a mapping name -> scalar tensor.
            shared, **signals: as for `backward`.

        Returns: a 0-dim tensor; under ``torch.no_grad()`` or of frozen parameters (validation, say) the plain sum.

        Raises:
            TypeError, ValueError: as for `backward`, at once where the losses tell, else when the host goes backward.
            RuntimeError: an earlier scalar still waits for its backward; the backward is given ``inputs=``.

        Example:
            >>> import torch; from gradweight.rules import AngleBisector
            >>> net = torch.nn.Linear(2, 1, bias=False)
            >>> opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
            >>> a, b = net(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))[:, 0]
            >>> opt.join({"a": a, "b": b}).backward(); net.weight.grad
            tensor([[1., 1.]])
        """
        return self._step.join(losses, signals, shared)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within it, `backward` exchanges nothing: it adds to this process's own gradients, and writes no ``.grad``.

        For all micro-batches of a step but the last, whose `backward` averages the sums. With one process it changes
        nothing. Of the others' `Combination`, what is not known yet is NaN; losses that a rule goes by are averaged.
        """
        before, self._step.local_only = self._step.local_only, True
        try:
            yield
        finally:
            self._step.local_only = before

    @with_step_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the base optimizer along ``.grad``; with nothing pending, a plain step of the base.

        Args:
            closure: re-evaluates the model, calling `zero_grad` and `backward` itself, and returns a loss to report.

        Raises:
            RuntimeError: the scalar of a `join` still waits; the scaler has unscaled the base too, or not the wrapper.
        """
        self._step.check_ready(closure=closure is not None)
        result = self.base.step() if closure is None else self.base.step(closure)
        self.mark_step()
        return result

    def mark_step(self) -> None:
        """Count a step that another optimizer took along ``.grad``: the rule remembers it, and `history` has it."""
        followed = self._step.after_base_step()
        if followed is not None:
            self.history.append(followed)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients that have accumulated, per loss and in ``.grad``, and that a `join` is waiting."""
        self._step.clear()
        self._step.deferred = None
        zero_grad(self.base, set_to_none)

    @with_state_dict_hooks
    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state dict, which loads into the bare base as well; a rule's state travels in it."""
        explain_to_accelerate()  # whose prepare() asks for this first
        return save(self.base)

    @with_load_hooks
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict`, or the bare base's, returned.

        Raises:
            TypeError, ValueError: no state dict, other groups, an unreadable rule's state; nothing has been loaded.
        """
        load(self.base, state_dict)
        self._step.after_load()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base, for the next `backward`."""
        self.base.add_param_group(param_group)

    def __repr__(self) -> str:
        return f"MultiObjectiveGradient({self.base!r}, {self.rule!r})"
