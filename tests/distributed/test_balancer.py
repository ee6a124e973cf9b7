"""LossBalancer on two processes: the weights of the global batch on each, under DDP and under FSDP1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from gradweight import LossBalancer, MultiObjectiveGradient
from gradweight.rules import CRMOGM, FAMO, UPGrad

from .pool import Pool
from .problems import Net, batch, distance, losses_of, network, same_everywhere, share, world

RULES = {"UPGrad": UPGrad(), "CRMOGM": CRMOGM(UPGrad()), "FAMO": FAMO()}


def under_ddp(rule: str) -> tuple[float, bool]:
    net, reference = network(), network()
    ddp = DistributedDataParallel(net, find_unused_parameters=True)
    balance = LossBalancer(RULES[rule], net.parameters(), process_group=world())
    expected = LossBalancer(RULES[rule], reference.parameters(), process_group=False)
    base, other = (torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.5) for n in (net, reference))
    for i in range(4):
        x = batch(i, 2)
        base.zero_grad()
        balance(losses_of(ddp, share(x))).backward()
        base.step()
        other.zero_grad()
        expected(losses_of(reference, x)).backward()
        other.step()
    assert balance.last is not None
    assert expected.last is not None
    torch.testing.assert_close(balance.last.weights, expected.last.weights, rtol=1e-9, atol=1e-12)
    return distance(net, reference), same_everywhere(net)


@pytest.mark.parametrize("rule", RULES)
def test_under_ddp(pair: Pool, rule: str) -> None:
    for apart, same in pair.run(under_ddp, rule):
        assert same
        assert apart < 1e-12


class Copied(nn.Module):
    """Returns a copy of what the module returned, and keeps it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        self.out = tuple(tensor.clone() for tensor in self.module(x))
        return self.out


def under_fsdp1() -> tuple[float, str]:
    reference, sharded = Copied(network()), network()
    net = Copied(FullyShardedDataParallel(sharded, device_id=torch.device("cpu"), use_orig_params=True))
    balance = LossBalancer(UPGrad(), process_group=world())
    expected = LossBalancer(UPGrad(), process_group=False)
    base, other = (torch.optim.SGD(n.parameters(), lr=0.05, momentum=0.5) for n in (net, reference))
    for i in range(3):
        x = batch(i, 2)
        base.zero_grad()
        balance(losses_of(net, share(x)), at=net.out).backward()
        base.step()
        other.zero_grad()
        expected(losses_of(reference, x), at=reference.out).backward()
        other.step()
    try:
        MultiObjectiveGradient(base, UPGrad(), process_group=world()).backward(losses_of(net, share(x)))
        said = ""
    except TypeError as error:
        said = str(error)
    with FullyShardedDataParallel.summon_full_params(net.module):
        return distance(sharded, reference.module), said


def test_under_fsdp1(pair: Pool) -> None:
    """Each process holds a part of one flat parameter, which is gathered for its own backward pass."""
    for apart, said in pair.run(under_fsdp1):
        assert apart < 1e-12
        assert "FSDP1" in said
        assert "LossBalancer" in said


def with_a_failure() -> str:
    net = network()
    balance = LossBalancer(UPGrad(), net.parameters(), process_group=world())
    losses = losses_of(net, share(batch(0, 2)))
    if torch.distributed.get_rank() == 1:
        losses["b"] = losses["b"].detach()
    try:
        balance(losses)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_failure_of_one_is_told_to_the_other(pair: Pool) -> None:
    first, second = pair.run(with_a_failure)
    assert "has no graph" in second
    assert first.startswith("RankMismatchError")
    assert "has no graph" in first


def at_features_of_other_losses() -> str:
    net: Net = network()
    balance = LossBalancer(UPGrad(), process_group=world())
    y, z = net(share(batch(0, 2)))
    losses = {"a": y.square().mean() + z.mean(), "b": z.square().mean() + y.mean()}
    if torch.distributed.get_rank() == 1:
        losses = {"a": losses["a"], "c": losses["b"]}
    try:
        balance(losses, at=(y, z))
    except Exception as error:
        return str(error)
    return ""


def test_other_losses_are_named(pair: Pool) -> None:
    for said in pair.run(at_features_of_other_losses):
        assert "['a', 'b']" in said
        assert "['a', 'c']" in said
