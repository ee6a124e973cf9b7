"""Replicated parameters: every process follows the direction that one process takes on the global batch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, GradDrop, UPGrad
from gradweight.rules.claims import CLAIMS, Claims

from .pool import Pool
from .problems import (
    NAMES,
    WAYS,
    Net,
    alone,
    batch,
    distance,
    losses_of,
    network,
    same_everywhere,
    share,
    together,
    train_both,
)

RULES = {claims.name: claims for claims in CLAIMS if claims.losses[0] <= 3 <= claims.losses[1]}
PAIRED = {claims.name: claims for claims in CLAIMS if claims.losses[1] == 2}


def some(losses: dict[str, Tensor], claims: Claims) -> dict[str, Tensor]:
    return dict(list(losses.items())[: min(3, claims.losses[1])])


def steps(
    name: str, reduce: str, how: str, dtype: torch.dtype, settings: dict[str, Any] | None = None
) -> tuple[float, bool]:
    """How far apart the processes and one process on the global batch are after four steps, two backwards each."""
    claims = (RULES | PAIRED)[name]
    net, reference = network(dtype), network(dtype)
    opt = together(net, claims.rule, reduce=reduce, **(settings or {}))
    expected = alone(reference, claims.rule, **(settings or {}))

    def backward(one: MultiObjectiveGradient, model: nn.Module, x: Tensor) -> None:
        losses = some(losses_of(model, x), claims)
        if how == "backward":
            one.backward(losses, **claims.signals)
        else:
            (one.join(losses, **claims.signals) / 2).backward()

    train_both((opt, net), (expected, reference), 4, backward, micro_batches=2, dtype=dtype)
    return distance(net, reference), same_everywhere(net)


@pytest.mark.parametrize(
    ("name", "reduce"),
    [(name, way) for name, c in (RULES | PAIRED).items() for way in ("all", *(() if c.averages else ("scatter",)))],
)
def test_every_rule(pair: Pool, name: str, reduce: str) -> None:
    for apart, same in pair.run(steps, name, reduce, "backward", torch.float64):
        assert same
        # the order of sums differs, and rules that solve something amplify it
        assert apart < 1e-9


@pytest.mark.parametrize("how", ["backward", "join"])
@pytest.mark.parametrize("reduce", ["all", "scatter"])
@pytest.mark.parametrize("name", ["AngleBisector", "NormBalance", "Random", "TrimmedMean", "Uncertainty"])
def test_four_processes_in_single_precision(four: Pool, name: str, reduce: str, how: str) -> None:
    """One rule of each kind: Gram, state, draws, coordinates, losses."""
    for apart, same in four.run(steps, name, reduce, how, torch.float32):
        assert same
        assert apart < 2e-6


class Waves(nn.Module):
    """Parameters of which every other one is complex; the losses oppose each other in half of the coordinates."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        kinds = (torch.complex128, torch.float64, torch.complex128, torch.float64)
        self.waves = nn.ParameterList(
            torch.randn(n, 2, dtype=kind, generator=generator) for n, kind in zip((3, 4, 2, 5), kinds, strict=True)
        )

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        real = torch.cat([(torch.view_as_real(p) if p.is_complex() else p).flatten() for p in self.waves])
        along = torch.arange(len(real), dtype=torch.float64)
        return {name: (real * (along * turn).cos()).sum() * x.mean() for name, turn in (("a", 1.0), ("b", 2.0))}


def real_and_complex(reduce: str) -> float:
    net, reference = Waves(), Waves()
    opt, expected = together(net, GradDrop(), reduce=reduce), alone(reference, GradDrop())
    train_both((opt, net), (expected, reference), 4, lambda one, model, x: one.backward(model.losses(x)))
    return distance(net, reference)


@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_draws_of_real_and_complex_parameters_are_those_of_one_process(pair: Pool, reduce: str) -> None:
    assert max(pair.run(real_and_complex, reduce)) < 1e-12  # another draw moves an entry by about 1e-3


@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_settings(pair: Pool, reduce: str) -> None:
    for settings in ({"blocks": "group"}, {"blocks": "layer"}, {"refresh_every": 3}, {"engine": "hooks"}):
        for apart, same in pair.run(steps, "UPGrad", reduce, "backward", torch.float64, settings):
            assert same, settings
            assert apart < 1e-9, settings


def averaged_matrix() -> tuple[list[list[float]], bool]:
    """What the rule is shown of a signal that is a matrix, and differs from process to process."""
    shown = []

    def rule(gram: Tensor, /, *, cross: Tensor) -> Tensor:
        shown.append(cross)
        return gram[0] * 0 + 1

    net = network()
    opt = together(net, rule)
    mine = torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (1 + 2 * distributed.get_rank())
    opt.backward(dict(list(losses_of(net, share(batch(0, 2))).items())[:2]), cross=mine)
    return shown[-1].tolist(), same_everywhere(net)


def test_a_signal_may_have_any_shape(pair: Pool) -> None:
    assert pair.run(averaged_matrix) == [([[2.0, 4.0], [6.0, 8.0]], True)] * 2


def one_backward_in_place(reduce: str) -> float:
    net, reference = network(), network()
    opt = together(net, AngleBisector(), reduce=reduce, accumulate=False)
    expected = alone(reference, AngleBisector(), accumulate=False)
    train_both((opt, net), (expected, reference), 3)
    return distance(net, reference)


@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_in_place(pair: Pool, reduce: str) -> None:
    assert max(pair.run(one_backward_in_place, reduce)) < 1e-12


def functions(reduce: str, joint: bool) -> float:
    net, reference = network(), network()
    opt, expected = together(net, UPGrad(), reduce=reduce), alone(reference, UPGrad())

    def backward(one: MultiObjectiveGradient, model: nn.Module, x: Tensor) -> None:
        def values(params: dict[str, Tensor]) -> dict[str, Tensor]:
            return losses_of(lambda x: torch.func.functional_call(model, params, (x,)), x)  # type: ignore[arg-type]

        one.backward(values if joint else {name: lambda params, name=name: values(params)[name] for name in NAMES})  # type: ignore[misc]

    train_both((opt, net), (expected, reference), 3, backward)
    return distance(net, reference)


@pytest.mark.parametrize("joint", [True, False])
def test_losses_that_are_functions(pair: Pool, joint: bool) -> None:
    assert max(pair.run(functions, "all", joint)) < 1e-12


def shared_level(reduce: str) -> float:
    net, reference = network(), network()
    opt = together(net, AngleBisector(), reduce=reduce)
    expected = alone(reference, AngleBisector())

    def backward(one: MultiObjectiveGradient, model: Net, x: Tensor) -> None:
        features = model.trunk(x)
        y, z = model.first(features), model.second(features)
        one.backward({"a": y.square().mean(), "c": (z + 1).exp().mean()}, shared=features)

    train_both((opt, net), (expected, reference), 3, backward)
    return distance(net, reference)


@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_at_the_representation(pair: Pool, reduce: str) -> None:
    assert max(pair.run(shared_level, reduce)) < 1e-9


def wrapped_in_ddp(how: str) -> tuple[float, bool]:
    net, reference = network(), network()
    ddp = DistributedDataParallel(net, find_unused_parameters=how == "join")
    opt, expected = together(net, UPGrad()), alone(reference, UPGrad())
    train_both((opt, ddp), (expected, reference), 4, WAYS[how])
    return distance(net, reference), same_everywhere(net)


@pytest.mark.parametrize("how", ["backward", "join"])
def test_a_module_in_ddp(pair: Pool, how: str) -> None:
    for apart, same in pair.run(wrapped_in_ddp, how):
        assert same
        assert apart < 1e-12


def not_told() -> tuple[str, str, bool]:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector())
    x = batch(0, 1)
    with pytest.raises(RuntimeError) as first:
        opt.backward(losses_of(net, x))
    with pytest.raises(RuntimeError) as second:
        opt.join(losses_of(net, x)).backward()
    untouched = all(p.grad is None for p in net.parameters())
    apart = alone(net, AngleBisector())
    apart.backward(losses_of(net, x))
    return str(first.value), str(second.value), untouched


def test_several_processes_must_be_named(pair: Pool) -> None:
    for first, second, untouched in pair.run(not_told):
        assert first.startswith("2 processes are in the default process group: pass process_group=")
        assert "process_group=False if every" in second
        assert untouched


def copies() -> list[float]:
    """A copy, and what comes out of a pickle, are of the same group."""
    net = network()
    opt = together(net, AngleBisector())
    x = share(batch(0, distributed.get_world_size()))
    opt.backward(losses_of(net, x))
    far = []
    for copied in (copy.deepcopy((net, opt)), pickle.loads(pickle.dumps((net, opt)))):
        other, its = copied
        its.zero_grad()
        its.backward(losses_of(other, x))
        far.append(max(float((p.grad - q.grad).abs().max()) for p, q in grads(net, other)))
    return far


def grads(net: nn.Module, other: nn.Module) -> list[tuple[Any, Any]]:
    return [(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True) if p.grad is not None]


def test_copies(pair: Pool) -> None:
    assert pair.run(copies) == [[0.0, 0.0]] * 2


def wrong_groups() -> list[str]:
    net = network()
    messages = []
    for settings in ({"process_group": "nccl"}, {"process_group": True}, {"reduce": "gather"}):
        with pytest.raises((TypeError, ValueError)) as raised:
            MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), **settings)  # type: ignore[arg-type]
        messages.append(str(raised.value))
    return messages


def test_wrong_groups(pair: Pool) -> None:
    first, second, third = pair.run(wrong_groups)[0]
    assert first.startswith("process_group must be a torch.distributed process group, such as")
    assert first.endswith("got 'nccl'")
    assert second.endswith("got True")
    assert third == "reduce must be 'all' or 'scatter'; got 'gather'"
