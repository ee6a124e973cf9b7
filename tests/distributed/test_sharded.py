"""Sharded parameters: FSDP2 averages and shards each loss's gradient; only inner products are exchanged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from gradweight import MultiObjectiveGradient
from gradweight.distributed.placement import placement_of
from gradweight.distributed.sums import BatchShardedSums
from gradweight.linalg.layout import coordinates
from gradweight.rule import Rule
from gradweight.rules import AngleBisector, GradDrop, PINNAnnealing, TrimmedMean, Uncertainty, UPGrad

from .pool import Pool
from .problems import WAYS, Net, alone, base, batch, distance, losses_of, network, share, train_both, world

RULES: dict[str, Rule] = {
    "UPGrad": UPGrad(),
    "AngleBisector": AngleBisector(),
    "GradDrop": GradDrop(),
    "TrimmedMean": TrimmedMean(),
    "PINNAnnealing": PINNAnnealing("a"),
    "Uncertainty": Uncertainty(),
}


def sharded(net: Net, **settings: Any) -> Net:
    fully_shard(net.trunk, **settings)
    fully_shard(net, **settings)
    return net


def steps(rule: str, how: str, dtype: torch.dtype, settings: dict[str, Any], wrapper: dict[str, Any]) -> float:
    net, reference = sharded(network(dtype), **settings), network(dtype)
    opt = MultiObjectiveGradient(base(net), RULES[rule], **wrapper)
    expected = alone(reference, RULES[rule], **wrapper)
    train_both((opt, net), (expected, reference), 4, WAYS[how], dtype=dtype)
    return distance(net, reference)


@pytest.mark.parametrize("rule", RULES)
def test_every_kind_of_rule(pair: Pool, rule: str) -> None:
    assert max(pair.run(steps, rule, "backward", torch.float64, {}, {})) < 1e-10


@pytest.mark.parametrize("how", ["backward", "join"])
@pytest.mark.parametrize("reshard", [True, False])
def test_reshard(four: Pool, reshard: bool, how: str) -> None:
    apart = four.run(steps, "AngleBisector", how, torch.float32, {"reshard_after_forward": reshard}, {})
    assert max(apart) < 2e-6


@pytest.mark.parametrize("wrapper", [{"blocks": "layer"}, {"refresh_every": 2}, {"accumulate": False}])
def test_settings(pair: Pool, wrapper: dict[str, Any]) -> None:
    assert max(pair.run(steps, "UPGrad", "backward", torch.float64, {}, wrapper)) < 1e-10


def mixed_precision() -> tuple[float, float]:
    """With parameters gathered in bfloat16: as far from float32 as the same step of one process in bfloat16."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    net = sharded(network(torch.float32), mp_policy=policy)
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=1.0), AngleBisector())
    x = batch(0, 2, torch.float32)
    losses = {name: loss.float() for name, loss in losses_of(net, share(x)).items()}
    seen = opt.backward(losses)
    exact = network(torch.float32)
    expected = alone(exact, AngleBisector()).backward(losses_of(exact, x))
    angles = float((seen.angles - expected.angles).abs().max())
    return float((seen.norms / expected.norms - 1).abs().max()), angles


def test_mixed_precision(pair: Pool) -> None:
    for relative, degrees in pair.run(mixed_precision):
        # bfloat16 has 8 bits: 0.4% for each rounding, of which a gradient has a few in a row
        assert relative < 0.05
        assert degrees < 2


def hybrid() -> float:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    # a rule for which the length of the gradients matters, so that what is there twice must not count twice
    return steps("AngleBisector", "backward", torch.float64, {"mesh": mesh}, {})


def test_hsdp(four: Pool) -> None:
    assert max(four.run(hybrid)) < 1e-10


def some_not_sharded(reduce: str) -> float:
    net, reference = network(), network()
    fully_shard(net.trunk)
    rule = PINNAnnealing("a")
    opt = MultiObjectiveGradient(base(net), rule, process_group=world(), reduce=reduce)  # type: ignore[arg-type]
    expected = alone(reference, rule)
    train_both((opt, net), (expected, reference), 3)
    return distance(net, reference)


@pytest.mark.parametrize("reduce", ["all", "scatter"])
def test_sharded_and_whole_parameters_together(pair: Pool, reduce: str) -> None:
    assert max(pair.run(some_not_sharded, reduce)) < 1e-10


def scaled() -> tuple[float, list[bool]]:
    net, reference = sharded(network(torch.float32)), network(torch.float32)
    opt, expected = MultiObjectiveGradient(base(net), UPGrad()), alone(reference, UPGrad())
    scalers = {one: torch.amp.GradScaler("cpu", init_scale=1024.0) for one in (opt, expected)}

    def backward(one: MultiObjectiveGradient, model: nn.Module, x: Tensor) -> None:
        one.backward(losses_of(model, x), scaler=scalers[one])

    def step(one: MultiObjectiveGradient) -> None:
        scalers[one].step(one)
        scalers[one].update()

    train_both((opt, net), (expected, reference), 3, backward, dtype=torch.float32, step=step)
    apart = distance(net, reference)
    losses = losses_of(net, share(batch(9, 2, torch.float32)))
    if distributed.get_rank() == 1:
        losses["b"] = losses["b"] * torch.inf
    opt.zero_grad()
    opt.backward(losses, scaler=scalers[opt])
    return apart, [bool(p.grad.to_local().isnan().all()) for p in net.parameters() if p.grad is not None]  # type: ignore[attr-defined]


def test_loss_scaling(pair: Pool) -> None:
    for apart, nan in pair.run(scaled):
        assert apart < 2e-6
        assert all(nan)


def refusals() -> list[str]:
    net = sharded(network())
    apart = MultiObjectiveGradient(base(net), UPGrad(), process_group=False)
    opt = MultiObjectiveGradient(base(net), UPGrad())
    losses = losses_of(net, share(batch(0, 2)))
    with pytest.raises(ValueError, match="model of its own") as first:
        apart.backward(losses)
    if world().rank() == 1:
        losses = dict.fromkeys(losses)  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="not None") as second:
        opt.backward(losses)
    return [str(first.value), str(second.value)]


def test_refusals(pair: Pool) -> None:
    for alone_but_sharded, missing in pair.run(refusals):
        assert alone_but_sharded.startswith("process_group=False says that every process trains a model of its own;")
        assert "a sharded parameter needs every process in every backward" in missing


def not_for_sharded() -> list[str]:
    net = sharded(network())
    optimizer = base(net)
    losses = losses_of(net, share(batch(0, 2)))
    features = losses["a"]
    functions = {"a": lambda params: torch.ones(())}
    messages = []
    for settings, given in (({}, functions), ({"engine": "autograd"}, losses), ({"shared": features}, losses)):
        shared = settings.pop("shared", None)  # type: ignore[attr-defined]
        opt = MultiObjectiveGradient(optimizer, UPGrad(), **settings)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="DTensor") as raised:
            opt.backward(given, shared=shared)  # type: ignore[arg-type]
        messages.append(str(raised.value))
    return messages


def test_what_sharded_parameters_do_not_support(pair: Pool) -> None:
    for functions, autograd, shared in pair.run(not_for_sharded):
        assert functions.endswith(
            "need losses that are tensors and engine='auto' or 'hooks'; got losses that are functions"
        )
        assert autograd.endswith("got engine='autograd'")
        assert shared.startswith("shared= cannot differentiate by sharded parameters")


def parts_of_mixed() -> list[list[tuple[int, int]]]:
    """The coordinates of each parameter, and of each activation, that lie on this process."""
    rank, mesh = distributed.get_rank(), init_device_mesh("cpu", (2,))
    kinds = ((torch.complex128, [Shard(0)]), (torch.float64, [Shard(0)]), (torch.complex128, [Replicate()]))
    params = [distribute_tensor(torch.zeros(4, 3, dtype=dtype), mesh, where) for dtype, where in kinds]
    starts = placement_of(params, "all", rank, 2).offsets
    ranges = [(a, a + coordinates(p.to_local())) for a, p in zip(starts, params, strict=True)]
    samples = [torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(5)]
    found = BatchShardedSums(world(), samples).offsets
    return [ranges, [(a, a + coordinates(t)) for a, t in zip(found, samples, strict=True)]]


def test_a_complex_entry_has_two_coordinates(pair: Pool) -> None:
    first, second = pair.run(parts_of_mixed)
    assert first == [[(0, 12), (24, 30), (36, 60)], [(0, 12), (12, 17)]]
    assert second == [[(12, 24), (30, 36), (36, 60)], [(17, 29), (29, 34)]]
