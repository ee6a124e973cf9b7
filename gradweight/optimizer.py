"""MultiObjectiveGradient: the wrapper that gives an existing optimizer several named losses."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from .combination import Combination
from .contract.arguments import check_count, check_flag
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
from .step.due import Due
from .step.join import join
from .step.replay import Replay
from .step.rule_state import load, save
from .step.settings import Settings
from .step.split import Tensors, split_at
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

    Memory beyond a plain step, for m losses and k parameters: the m rows, mk, until `zero_grad`, and for the direction
    a buffer of k, kept between steps. With ``accumulate=False``, for steps of one `backward`, the direction is formed
    in the first row: (m - 1)k at the peak and no buffer.

    Args:
        base: the optimizer to wrap, or several of different parameters, such as Muon for matrices and AdamW for the
            rest: one combination over all, each stepping its own. Not one that must re-evaluate the loss in a closure
            (LBFGS), runs a backward pass of its own (SAM, LOMO) or takes sparse gradients only (SparseAdam).
        rule: how to weight the losses; see `gradweight.rules`, or any callable ``gram -> weights``.
        engine: "autograd", "batched", "func", "gram" or "hooks" (see `gradweight.gradients.engines`). "auto" is "func"
            for functions, "hooks" for reentrant checkpoints and sharded parameters, "batched" for vector losses and on
            a GPU for three and more on one small trunk, else "autograd"; `engine_used` says which. "gram" keeps no
            gradient of one loss: rules by the Gram matrix, one process, micro-batches through `join`, each with weights
            of its own.
        params: pairs (name, parameter), such as ``module.named_parameters()``: the names by which losses that are
            functions receive the parameters. By default those that ``base`` was built with, if any.
        accumulate: False says that every step is one `backward`; see above.
        blocks: one combination, with weights of its own, per "group" (parameter group) or "layer" (parameters with one
            prefix, such as ``trunk.0`` in ``trunk.0.weight``), or per value of a function of the parameter's name, for
            which None leaves the parameter alone: the plain sum of its gradients. A rule's guarantee holds in every
            block; where it is about angles or conflicts also for the whole, since inner products add up over blocks.
        trunk: the module that all losses share (or its parameters): the rule is shown the gradients at these, and
            every other parameter, those of the tasks' heads, is left alone. Instead of ``blocks``.
        refresh_every: n holds the weights for the n - 1 steps after the one that found them; those cost one backward
            of the weighted sum, and their Gram matrix is NaN. Each set of losses has weights of its own. Exact: the
            direction, for these weights. Approximate: guarantees are for the gradients of the step that was measured.
        history: how many of the last steps' `Combination` to keep in `history`, on the device, without a host sync.
        process_group: the data-parallel processes over which the gradient, the value and the signals of each loss are
            averaged, such as ``torch.distributed.group.WORLD``; see `gradweight.distributed`. Parameters that are
            sharded (FSDP2) bring their own. False says that every process trains a model of its own.
        reduce: how gradients are averaged: "all" or "scatter", with half the traffic of many losses, shares of rows.
        cuda_graphs: on CUDA, Gram matrix, rule and weighted sum are recorded when a kind of step (set of losses, say)
            comes again, and replayed from then on. The rule must be a function of what it is given. One that reads
            values back to the host is launched by operations, with a warning; with False, every rule is.

    Raises:
        TypeError: ``base`` is no optimizer, needs closures or sparse gradients, has float8 parameters; no ``rule`` or
            ``process_group``.
        ValueError: unknown ``engine`` or ``reduce``; ``params`` lacks a parameter of the base; bases that share one.

    Example:
        >>> import torch; from gradweight.rules import AngleBisector
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
        >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> opt.backward({"a": net(a).sum(), "b": net(b).sum()}).weights
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
        due: Due = None,
        **signals: Tensor | float,
    ) -> Combination:
        """Compute each loss's gradient, combine what has accumulated, write the direction to ``.grad``; return `last`.

        Args:
            losses: a mapping name -> scalar tensor, or vector of up to 1024 values, one per sample, each of which is a
                loss ``name[i]`` of its own; or name -> function of the parameters, a dict of named tensors, each run
                forward and backward by itself; or one such function that returns a mapping as above, run once. None
                counts as zero, for a loss that another process or micro-batch has.
            scaler: a `torch.amp.GradScaler`; ``.grad`` is then scaled, the rule and the `Combination` see no scale.
            retain_graph: keep the graphs for another backward.
            shared: a tensor (or several) through which all losses reach the trunk, such as the features that task
                heads share: the rule is shown the gradients at it, and the trunk has one backward pass instead of m.
                Exact: the trunk's direction, for these weights; each head's plain sum. Approximate: the weights, which
                come from angles and norms at the tensor. One backward per step.
            due: of a rule on averages of gradients (`gradweight.rules.MConFIG`): the name of the loss, or several, to
                go backward from now. The others, which may be None in the mapping, keep their averages.
            **signals: what the rule declares beyond `names` and `losses`; 0-dim tensors or numbers.

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
        return self._step.backward(losses, signals, scaler, shared=shared, due=due, retain_graph=retain_graph)

    def join(
        self,
        losses: Mapping[str, Tensor],
        *,
        shared: Tensor | Sequence[Tensor] | None = None,
        due: Due = None,
        **signals: Tensor | float,
    ) -> Tensor:
        """One scalar, the sum of the losses, whose ``.backward()`` does what `backward` does.

        For training frameworks that call it themselves: return this as the loss. What the host multiplies it by (a
        loss scale, 1 / accumulation steps) scales ``.grad``; the rule sees the mean over the micro-batches. Arguments
        as for `backward`; under ``torch.no_grad()`` or of frozen parameters (validation, say) it is the plain sum.

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
        return join(self._step, losses, signals, shared, due)

    def split_at(self, tensors: Tensors, *, scaler: Any = None, **signals: Tensor | float) -> dict[str, Any]:
        """Stand-ins for named tensors, from which a host computes one loss that is split by them.

        With L the host's loss and ``c_i = dL/dt_i`` at the tensors t_i, L's backward pass through the stand-ins does
        what `backward` does with losses whose gradients are ``(dt_i/dp)^T c_i`` at the parameters p.

        For hosts that add up their losses where nobody gets in between: name the network's output that each is computed
        from, those of one loss together as a list. May be called several times before the backward pass.

        Args:
            tensors: a mapping name -> tensor, or several; None for what another process or micro-batch has.
            scaler, **signals: as for `backward`; what the host scales its loss with.

        Returns: a dict of the same form to go on with in their place, the same values; under ``torch.no_grad()`` or of
        frozen parameters the tensors themselves. The losses' values are not known: NaN in the `Combination`.

        Raises:
            TypeError, ValueError: a rule that goes by losses; tensors of other types, or without a graph.
            RuntimeError: a name that waits already; in the host's backward pass, a tensor that it does not come to.

        Example:
            >>> import torch; from gradweight.rules import AngleBisector
            >>> net = torch.nn.Linear(2, 1, bias=False)
            >>> opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
            >>> a, b = net(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))[:, 0]
            >>> t = opt.split_at({"a": a, "b": b}); (t["a"] + t["b"]).backward(); net.weight.grad
            tensor([[1., 1.]])
        """
        return split_at(self._step, tensors, signals, scaler)

    def no_sync(self) -> AbstractContextManager[None]:
        """Within it, `backward` exchanges nothing: it adds to this process's own gradients, and writes no ``.grad``.

        For all micro-batches of a step but the last, whose `backward` averages the sums; with one process, nothing. Of
        the others' `Combination`, what is not known yet is NaN; losses that a rule goes by are averaged.
        """
        return self._step.no_sync()

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

    def __repr__(self) -> str:
        return f"MultiObjectiveGradient({self.base!r}, {self.rule!r})"
