"""LossBalancer: weights first, then one scalar for whatever backward pass the training framework has."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .combination import Combination
from .contract.arguments import check_count, loss_scale, tensors_of
from .distributed import check_group, communicator_of, stays
from .distributed.communicator import AveragedRows, Communicator
from .gradients.losses import are_functions, as_plain, check_losses
from .gradients.missing_losses import RankLosses
from .linalg.layout import any_sharded
from .rule import CoordinateRule, Rule, State, refuse_averages
from .step.combiner import Combiner
from .step.join import total
from .step.micro_batch import MicroBatch
from .step.plans import PerLoss, WeightedSum
from .step.refresh import held_weights, weights_to_hold
from .step.rule_state import STATE_KEY, check_readable, keep, pack, unpack
from .step.settings import Settings
from .step.state_names import warn_of_another_rule, warn_of_other_losses

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["LossBalancer"]


class LossBalancer(nn.Module):
    """One scalar, the weighted sum of named losses, with weights by a rule that was shown the losses' gradients.

    With ``g_i`` the gradient of loss i at the tensors that are probed, ``G[i, j] = <g_i, g_j>`` and ``w = rule(G)``, a
    call returns ``sum_i w_i L_i``, 0-dim, with the losses' own graphs; w is constant. The training framework goes
    backward through it once, by its own machinery: ZeRO, FSDP1, hooks that step in the backward pass.

    Exact, without accumulation, and probed at all parameters: the gradient is the direction that
    `gradweight.MultiObjectiveGradient` gives. Probed at a tensor that all losses share or at the last layer, the
    weights come from angles and norms there. Over micro-batches each has weights of its own, where the wrapper has
    those of the whole batch.

    Cost: one backward pass from each loss to what is probed, and the one of the framework: m + 1 in all at the
    parameters, about 1 + m/n with ``refresh_every=n``, next to nothing beyond one at a last layer, and one for a rule
    that needs no gradients. Nothing is read back to the host.

    A module without parameters: what the rule remembers is in its `state_dict`, and so in that of a model of which it
    is a part. It advances with every call while gradients are enabled. Without them (validation, say) a call returns
    the plain sum and remembers nothing.

    Args:
        rule: how to weight the losses; see `gradweight.rules`, or any callable ``gram -> weights``. Not one that acts
            on coordinates, which has no weights.
        params: where to probe: the parameters, or one layer's. Those that require a gradient are taken at each call.
            None: each call is told by ``at=``.
        refresh_every: n holds the weights for the n - 1 calls after the one that found them.
        history: how many of the last `Combination` to keep in `history`.
        process_group: the processes whose mean gradients the rule is shown, so that all have the same weights; as for
            `gradweight.MultiObjectiveGradient`.

    Raises:
        TypeError: no rule, or one that acts on coordinates or on averages over the steps; ``params`` that are no
            tensors; no ``process_group``.
        ValueError: ``refresh_every`` below 1.

    Example:
        >>> from gradweight.rules import AngleBisector
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> balance = LossBalancer(AngleBisector(), net.parameters())
        >>> a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> balance({"a": net(a).sum(), "b": net(b).sum()}).backward()
        >>> balance.last.weights
        tensor([0.3333, 0.2500])
        >>> net.weight.grad
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        rule: Rule,
        params: Iterable[Tensor] | None = None,
        *,
        refresh_every: int = 1,
        history: int = 0,
        process_group: "ProcessGroup | bool | None" = None,
    ) -> None:
        super().__init__()
        combiner = Combiner(rule)
        if isinstance(rule, CoordinateRule):
            raise TypeError(f"LossBalancer needs a rule that gives one weight per loss; {rule!r} acts on coordinates")
        refuse_averages(rule, "LossBalancer", "use gradweight.MultiObjectiveGradient")
        group = check_group(process_group, "all")
        self._settings = Settings(combiner, None, None, "autograd", False, None, refresh_every, group, "all")
        self._params = None if params is None else _tensors_in(params)
        self._saved: State = {}
        self._loaded = False
        self._communicator: Communicator | None = None
        self.rule = rule
        self.last: Combination | None = None
        self.history: deque[Combination] = deque(maxlen=check_count("history", history, 0))

    def forward(
        self,
        losses: Mapping[str, Tensor],
        *,
        at: Tensor | Sequence[Tensor] | None = None,
        scaler: Any = None,
        **signals: Tensor | float,
    ) -> Tensor:
        """The weighted sum of the losses.

        Args:
            losses: a mapping name -> scalar tensor; None for one that this process or micro-batch lacks.
            at: a tensor (or several) on which all losses depend, to probe at instead of at ``params``, such as the
                features that task heads share. With several processes, each probes at its own samples. What an FSDP1
                module returned has hooks that gather parameters: probe at a copy, from which the losses are computed.
            scaler: a `torch.amp.GradScaler`: the probed gradients are scaled, so that those in half precision do not
                underflow, and the rule sees them unscaled. The returned scalar is not scaled.
            **signals: what the rule declares beyond `names` and `losses`; 0-dim tensors or numbers.

        Returns:
            A 0-dim tensor, NaN if a gradient or a loss is not finite. What was decided is kept as `last`.

        Raises:
            TypeError, ValueError: as for `gradweight.MultiObjectiveGradient.backward`; nothing to probe at; sharded
                parameters (DTensor, ZeRO-3), whose gradients only a backward pass of the framework's has.

        Nothing is remembered then, and no ``.grad`` is ever written.
        """
        losses = as_plain(losses)
        if not torch.is_grad_enabled():
            values = check_losses(RankLosses.of(losses).here, with_graph=False)
            return total(values, next(iter(values.values())))
        if are_functions(losses):
            raise TypeError("LossBalancer needs losses that are tensors with their graphs; got functions")
        targets = self._targets(at)
        micro = MicroBatch(
            losses,
            targets,
            signals,
            None if scaler is None else loss_scale(scaler, targets[0].device),
            True,
            False,
            "LossBalancer()",
            self._settings,
            self._communicator_of(targets),
            [],
            self._saved,
            None,
            None,
        )
        combination, changed = self._decided(micro, at_samples=at is not None)
        if self._loaded:
            self._loaded = warn_of_other_losses(self.rule, changed, self._saved)
        keep(self._saved, changed)
        self.last = combination
        self.history.append(combination)
        return _weighted(micro, combination)

    def _decided(self, micro: MicroBatch, *, at_samples: bool) -> tuple[Combination, State]:
        """What the rule decides, and the entries of the state that change."""
        combiner, every = self._settings.combiner, self._settings.refresh_every
        held = held_weights(micro.in_order, every, micro.saved, micro.params[0])
        known = held is not None or not combiner.needs_gradients
        combination, state = self._by_losses(micro, held) if known else self._by_gradients(micro, at_samples)
        weights = combination.weights
        return combination, state | weights_to_hold(combination.names, weights, every, micro.saved, found=held is None)

    def _by_losses(self, micro: MicroBatch, held: Tensor | None) -> tuple[Combination, State]:
        plan = WeightedSum(micro, held)
        plan.prepare()
        micro.communicator.all_or_none_raise(plan.find_weights, lambda _: micro.describe())
        losses = plan.averaged.losses
        unknown = torch.full_like(losses, torch.nan).expand(len(losses), -1)
        return Combination(plan.averaged.names, losses, unknown, plan.weights), plan.state

    def _by_gradients(self, micro: MicroBatch, at_samples: bool) -> tuple[Combination, State]:
        plan, communicator = PerLoss(micro), micro.communicator
        if at_samples:  # no two processes have gradients at the same samples: there is nothing to average
            local = communicator.all_or_none_raise(
                lambda: plan.local_rows().taken(), lambda _: micro.describe_with(micro.on_this_rank.names or ())
            )
            rows = AveragedRows(plan.row_names, micro.params).average(local)
            sums = communicator.sums_over_samples(micro.params)
        else:
            with communicator.averaged_rows(plan.row_names, micro.params, [], micro.describe) as averaged:
                local = plan.local_rows()
                rows = averaged.average(local)
            sums = communicator.sums(micro.params)
        accumulated = plan.accumulated(local, rows, micro.params)
        return communicator.all_or_none_raise(
            lambda: self._settings.combiner.weights_by_gram(accumulated, micro.saved, sums), lambda _: micro.describe()
        )

    def _targets(self, at: Tensor | Sequence[Tensor] | None) -> list[Tensor]:
        if at is not None:
            tensors = tensors_of("at", at)
        elif self._params is not None:
            tensors = self._params
        else:
            raise ValueError("LossBalancer needs params, or at= in every call: where are the gradients to be compared?")
        targets = [tensor for tensor in tensors if tensor.requires_grad]
        if not targets:
            raise ValueError("LossBalancer needs a tensor that requires a gradient to probe at; there is none")
        if any_sharded(targets):
            raise ValueError(
                "LossBalancer cannot probe at sharded parameters (DTensor), whose gradients FSDP2 leaves in .grad "
                "alone: pass a tensor that the losses share, at=features"
            )
        # as DeepSpeed tells them from others
        if True in [hasattr(tensor, "ds_id") for tensor in targets]:
            raise ValueError(
                "LossBalancer cannot probe at parameters that DeepSpeed's ZeRO-3 partitions, whole only while their "
                "module runs: pass a copy of what the engine returned, at=output"
            )
        return targets

    def _communicator_of(self, targets: list[Tensor]) -> Communicator:
        if self._communicator is None or not stays(self._communicator):
            settings = self._settings
            self._communicator = communicator_of(settings.process_group, settings.reduce, targets)
        return self._communicator

    # ---- state

    def get_extra_state(self) -> dict[str, str]:
        """What the rule remembers, as text; a host sync."""
        return {STATE_KEY: pack(self._saved)}

    def set_extra_state(self, state: dict[str, str]) -> None:
        """Load what `get_extra_state` returned; a `ValueError` if it is something else, and nothing is loaded then."""
        check_readable([state if isinstance(state, dict) else {STATE_KEY: state}])
        self._saved, self._loaded = unpack(state[STATE_KEY], torch.device("cpu")), True
        warn_of_another_rule(self.rule, self._saved)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_communicator": None}  # connections are this process's own

    def extra_repr(self) -> str:
        """The rule, and where it is shown gradients."""
        where = "at= of each call" if self._params is None else f"{len(self._params)} parameters"
        return f"{self.rule!r}, {where}"


def _weighted(micro: MicroBatch, combination: Combination) -> Tensor:
    here: Mapping[str, Tensor] = micro.on_this_rank.here  # type: ignore[assignment]
    weights = [weight for weight, name in zip(combination.weights, combination.names, strict=True) if name in here]
    if not here:  # on this process; the framework may need a graph to go backward through all the same
        return 0 * micro.params[0].sum()
    parts = [here[name].reshape(()).to(combination.weights) for name in combination.names if name in here]
    return (torch.stack(parts) * torch.stack(weights).detach()).sum()


def _tensors_in(params: Iterable[Tensor]) -> list[Tensor]:
    tensors = [params] if isinstance(params, Tensor) else params
    found = None if isinstance(tensors, nn.Module) or not isinstance(tensors, Iterable) else list(tensors)
    if not found or not all(isinstance(tensor, Tensor) for tensor in found):
        got = type(params).__name__ if not found else f"{type(params).__name__} of {type(found[0]).__name__}"
        raise TypeError(f"LossBalancer's params must be parameters, such as net.parameters(); got {got}")
    return list({id(tensor): tensor for tensor in found}.values())
