"""What goes wrong on one process is told to all, who are left as they were and go on."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import fully_shard

from gradweight import MultiObjectiveGradient
from gradweight.distributed.sharding import to_local
from gradweight.rule import Rule
from gradweight.rules import AngleBisector, Sum, Uncertainty, UPGrad

from .pool import Pool
from .problems import base, batch, losses_of, network, share, together

REDUCE = pytest.mark.parametrize("reduce", ["all", "scatter"])


@pytest.mark.parametrize("rule", [Uncertainty(), UPGrad()])
def test_in_one_process_a_loss_that_is_none_counts_as_zero(rule: Rule) -> None:
    net = network()
    losses = losses_of(net, batch(0, 1))
    seen = MultiObjectiveGradient(base(net), rule).backward(losses | {"b": None})  # type: ignore[dict-item]
    assert seen.names == tuple(losses)
    assert seen.losses[seen.names.index("b")] == 0


def nobody_has_it() -> str:
    net = network()
    opt = together(net, AngleBisector())
    with pytest.raises(ValueError, match="None") as raised:
        opt.backward({"a": losses_of(net, batch(0, 1))["a"], "b": None})  # type: ignore[dict-item]
    return str(raised.value)


def test_a_loss_that_no_process_has(pair: Pool) -> None:
    assert pair.run(nobody_has_it) == ["the loss 'b' is None on all 2 processes"] * 2


def without_rows() -> str:
    net = network()
    opt = together(net, AngleBisector(), engine="gram")
    with pytest.raises(ValueError, match="needs one process") as raised:
        opt.backward(losses_of(net, share(batch(0, 2))))
    assert all(p.grad is None for p in net.parameters())
    return str(raised.value)


def test_a_gram_matrix_without_rows_is_that_of_one_process(pair: Pool) -> None:
    assert all("got 2 processes: use engine='auto'" in text for text in pair.run(without_rows))


def forgotten() -> str:
    net = network()
    opt = together(net, Sum())
    with opt.no_sync():
        opt.backward(losses_of(net, batch(0, 1)))
    with pytest.raises(RuntimeError) as raised:
        opt.step()
    opt.zero_grad()
    opt.step()
    return str(raised.value)


def test_a_step_without_an_exchange_is_an_error(pair: Pool) -> None:
    assert all("no_sync()" in text for text in pair.run(forgotten))


def not_reached(how: str) -> tuple[str, bool]:
    """One process forgets a tensor: in one call, or the only one of its call."""
    net = network()
    opt = together(net, UPGrad())
    losses = losses_of(net, share(batch(0, 2)))
    if how == "one call":
        split = opt.split_at(losses)
    else:
        split = {name: opt.split_at({name: loss})[name] for name, loss in losses.items()}
    if distributed.get_rank() == 1:
        del split["b"]
    with pytest.raises(RuntimeError) as raised:
        torch.stack([*split.values()]).sum().backward()
    untouched = all(p.grad is None for p in net.parameters())
    opt.backward(losses_of(net, share(batch(1, 2))))  # the group still works
    return str(raised.value), untouched


@pytest.mark.parametrize("how", ["one call", "several"])
def test_a_tensor_that_a_backward_pass_does_not_come_to(pair: Pool, how: str) -> None:
    (other, one), (own, two) = pair.run(not_reached, how)
    assert one
    assert two
    assert "rank 1: RuntimeError: the backward pass did not come to the tensors" in other
    assert "for ['b']" in own


def other_names(reduce: str, how: str) -> tuple[str, bool]:
    net = network()
    opt = together(net, AngleBisector(), reduce=reduce)
    opt.backward(losses_of(net, share(batch(0, 2))))
    before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    losses = losses_of(net, share(batch(1, 2)))
    opt.zero_grad()
    for p, grad in zip(net.parameters(), before, strict=True):
        p.grad = grad
    if distributed.get_rank() == 1:
        losses["d"] = losses.pop("c")
    go = opt.backward if how == "backward" else lambda losses: opt.join(losses).backward()
    with pytest.raises(RuntimeError) as raised:
        go(losses)
    untouched = all(p.grad is grad for p, grad in zip(net.parameters(), before, strict=True))
    # and the group still works
    opt.backward(losses_of(net, share(batch(2, 2))))
    return str(raised.value), untouched


@REDUCE
@pytest.mark.parametrize("how", ["backward", "join"])
def test_other_names_are_an_error_on_every_process(pair: Pool, reduce: str, how: str) -> None:
    for message, untouched in pair.run(other_names, reduce, how):
        expected = (
            "all processes need the same losses, in one order: rank 0 has ['a', 'b', 'c']; rank 1 has ['a', 'b', 'd']"
        )
        assert message == expected
        assert untouched


class FailsOnOne:
    """The plain sum, but for rank 1, where it raises when the time has come."""

    def __init__(self, needs_gradients: bool) -> None:
        self.needs_gradients = needs_gradients
        self.now = False

    def __call__(self, gram: Tensor, /) -> Tensor:
        if self.now and distributed.get_rank() == 1:
            raise ZeroDivisionError("division by zero")
        return torch.ones_like(gram[0])

    def __repr__(self) -> str:
        return "FailsOnOne()"


def by_layer(name: str) -> str:
    return name.split(".")[0]


def fails_on_one(where: str, reduce: str) -> tuple[str, bool]:
    net = network()
    if where == "sharded":
        fully_shard(net)
    rule = FailsOnOne(where != "losses alone")
    opt = together(net, rule, reduce=reduce, blocks=by_layer if where == "blocks" else None)
    if where in ("rule", "blocks", "sharded"):  # the second micro-batch: .grad lies in the optimizer's memory
        opt.backward(losses_of(net, share(batch(1, 2))))
    before = [(p.grad, None if p.grad is None else to_local(p.grad).clone()) for p in net.parameters()]
    x, other = share(batch(0, 2)), distributed.get_rank() == 1
    losses, shared = losses_of(net, x), None
    if where == "shared":
        shared = net.trunk(x)
        losses = {"a": net.first(shared).square().mean(), "c": net.second(shared).exp().mean()}
    rule.now = True
    if other and where in ("validation", "join"):
        losses["b"] = losses["b"].detach()
    if other and where == "backward":
        losses["b"].register_hook(lambda g: 1 / 0)  # type: ignore[arg-type]
    go = opt.backward if where != "join" else lambda losses, shared: opt.join(losses).backward()
    with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)) as raised:
        go(losses, shared=shared)
    untouched = all(
        p.grad is grad and (grad is None or torch.equal(to_local(grad), copy))
        for p, (grad, copy) in zip(net.parameters(), before, strict=True)
    )
    rule.now = False
    opt.backward(losses_of(net, share(batch(2, 2))))
    return f"{raised.type.__name__}: {raised.value}", untouched


@REDUCE
@pytest.mark.parametrize(
    "where", ["validation", "join", "backward", "rule", "blocks", "losses alone", "shared", "sharded"]
)
def test_a_failure_on_one_process_is_told_to_the_others(pair: Pool, where: str, reduce: str) -> None:
    (first, untouched), (second, also) = pair.run(fails_on_one, where, reduce)
    lacks = where in ("validation", "join")
    own = "ValueError: the loss 'b' has no graph" if lacks else "ZeroDivisionError: division by zero"
    assert second.startswith(own)
    assert first.startswith(f"RankMismatchError: this step was given up on all 2 processes because of rank 1: {own}")
    assert untouched
    assert also


def dies() -> list[bool]:
    net = network()
    opt = together(net, AngleBisector())
    opt.backward(losses_of(net, share(batch(0, 2))))
    opt.step()
    before = [p.detach().clone() for p in net.parameters()]
    losses = losses_of(net, share(batch(1, 2)))
    if distributed.get_rank() == 1:
        losses["b"].register_hook(lambda g: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError):  # the process group's own
        opt.backward(losses)
    return [torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)]


def test_a_process_that_dies(pair: Pool) -> None:
    assert all(pair.run(dies, dies=(1,))[0])


def differ(what: str) -> str:
    """Rank 1 does something else."""
    other = distributed.get_rank() == 1
    net = network()
    if what == "weights" and other:
        torch.nn.init.zeros_(net.second.bias)
    settings: dict[str, object] = {"reduce": "scatter"} if what == "reduce" and other else {}
    rule: Rule = (
        {"rule": UPGrad(), "kind of rule": Uncertainty()}.get(what, AngleBisector()) if other else AngleBisector()
    )  # type: ignore[assignment]
    opt = together(net, rule, **settings)
    x = share(batch(0, 2))
    features = net.trunk(x)
    losses = {"a": net.first(features).square().mean(), "c": net.second(features).exp().mean()}
    shared = features if what == "shared" and other else None
    signals = {"score": 1.0} if what == "signal" and other else {}
    with pytest.raises((RuntimeError, TypeError)) as raised:
        opt.backward(losses, shared=shared, **signals)
    assert all(p.grad is None for p in net.parameters())
    return f"{raised.type.__name__}: {raised.value}"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("rule", "rank 0 has backward() with the signals []; AngleBisector()"),
        ("kind of rule", "the same call and settings: rank 0 has backward() with the signals []; AngleBisector()"),
        ("reduce", "reduce='scatter'"),
        ("shared", "rank 1 has shared= of backward()"),
        ("signal", "with the signals ['score']"),
        ("weights", "all processes need the same parameters: rank 0 has 9 of shapes"),
    ],
)
def test_processes_that_do_different_things(pair: Pool, what: str, said: str) -> None:
    for message in pair.run(differ, what):
        assert said in message
        assert message.startswith("RankMismatchError: all processes need the same ")
