"""Processes that differ: losses, parameters and samples of some only, micro-batches, infinities, failures."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import Tensor, distributed, nn

from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule
from gradweight.rules import FAMO, AngleBisector, Sum, Uncertainty, UPGrad

from .pool import Pool
from .problems import alone, base, batch, distance, losses_of, network, same_everywhere, share, together

REDUCE = pytest.mark.parametrize("reduce", ["all", "scatter"])


def losses_of_some(reduce: str, how: str) -> tuple[float, bool]:
    """Loss "a" lives on rank 0, "c" on rank 1, "b" on both: the average counts what is missing as zero."""
    net, reference = network(), network()
    opt, expected = together(net, UPGrad(), reduce=reduce), alone(reference, UPGrad())
    rank = distributed.get_rank()
    for i in range(3):
        x = batch(i, 2)
        shares = [losses_of(reference, part) for part in x.chunk(2)]
        expected.zero_grad()
        expected.backward(
            {"a": shares[0]["a"] / 2, "b": (shares[0]["b"] + shares[1]["b"]) / 2, "c": shares[1]["c"] / 2}
        )
        expected.step()
        mine: dict[str, Tensor | None] = dict(losses_of(net, share(x)))
        mine["ac"[1 - rank]] = None
        opt.zero_grad()
        if how == "backward":
            opt.backward(mine)  # type: ignore[arg-type]
        else:
            opt.join(mine).backward()  # type: ignore[arg-type]
        opt.step()
    return distance(net, reference), same_everywhere(net)


@REDUCE
@pytest.mark.parametrize("how", ["backward", "join"])
def test_losses_that_some_processes_do_not_have(pair: Pool, reduce: str, how: str) -> None:
    for apart, same in pair.run(losses_of_some, reduce, how):
        assert same
        assert apart < 1e-12


def weighted_losses_of_some(every: int) -> float:
    rule = Uncertainty() if every == 1 else UPGrad()
    net, reference = network(), network()
    opt, expected = together(net, rule, refresh_every=every), alone(reference, rule, refresh_every=every)
    for i in range(4):
        x = batch(i, 2)
        shares = [losses_of(reference, part) for part in x.chunk(2)]
        expected.zero_grad()
        expected.backward({"a": shares[0]["a"] / 2, "b": (shares[0]["b"] + shares[1]["b"]) / 2})
        expected.step()
        mine = losses_of(net, share(x))
        opt.zero_grad()
        opt.backward({"a": mine["a"] if distributed.get_rank() == 0 else None, "b": mine["b"]})  # type: ignore[dict-item]
        opt.step()
    return distance(net, reference)


@pytest.mark.parametrize("rule", [Uncertainty(), UPGrad()])
def test_one_process_has_all_losses(rule: Rule) -> None:
    net = network()
    losses = losses_of(net, batch(0, 1))
    with pytest.raises(TypeError, match="the loss 'b' must be a scalar tensor; got NoneType"):
        MultiObjectiveGradient(base(net), rule).backward(losses | {"b": None})  # type: ignore[dict-item]


@pytest.mark.parametrize("every", [1, 2])
def test_one_backward_of_what_a_process_has(pair: Pool, every: int) -> None:
    assert max(pair.run(weighted_losses_of_some, every)) < 1e-12


def nobody_has_it() -> str:
    net = network()
    opt = together(net, AngleBisector())
    with pytest.raises(ValueError, match="None") as raised:
        opt.backward({"a": losses_of(net, batch(0, 1))["a"], "b": None})  # type: ignore[dict-item]
    return str(raised.value)


def test_a_loss_that_no_process_has(pair: Pool) -> None:
    assert pair.run(nobody_has_it) == ["the loss 'b' is None on all 2 processes"] * 2


def parameters_of_some(reduce: str) -> tuple[float, list[bool]]:
    """Rank 1's samples do not go through the second head, though its loss exists there."""
    net, reference = network(), network()
    opt, expected = together(net, UPGrad(), reduce=reduce), alone(reference, UPGrad())
    for i in range(3):
        x = batch(i, 2)

        def losses(model: nn.Module, x: Tensor, rank: int) -> dict[str, Tensor]:
            values = losses_of(model, x)
            through_head = values["c"] if rank == 0 else model.trunk(x).square().mean()  # type: ignore[operator]
            return {"a": values["a"], "c": through_head}

        parts = [losses(reference, part, rank) for rank, part in enumerate(x.chunk(2))]
        expected.zero_grad()
        expected.backward({name: (parts[0][name] + parts[1][name]) / 2 for name in ("a", "c")})
        expected.step()
        opt.zero_grad()
        opt.backward(losses(net, share(x), distributed.get_rank()))
        grads = [p.grad is None for p in net.parameters()]
        assert grads == [p.grad is None for p in reference.parameters()]
        opt.step()
    return distance(net, reference), grads


@REDUCE
def test_parameters_that_a_loss_reaches_on_some_processes(pair: Pool, reduce: str) -> None:
    for apart, without in pair.run(parameters_of_some, reduce):
        assert apart < 1e-12
        assert sum(without) == 1  # the parameter that no loss reaches anywhere


def uneven_samples() -> float:
    """Three samples here, five there: weighted by its share of the samples, a mean is that of all."""
    net, reference = network(), network()
    opt, expected = together(net, AngleBisector()), alone(reference, AngleBisector())
    x = batch(0, 2)
    mine = x[:3] if distributed.get_rank() == 0 else x[3:]
    factor = len(mine) * 2 / len(x)
    opt.backward({name: factor * loss for name, loss in losses_of(net, mine).items()})
    expected.backward(losses_of(reference, x))
    return max(
        float((p.grad - q.grad).abs().max())
        for p, q in zip(net.parameters(), reference.parameters(), strict=True)
        if p.grad is not None and q.grad is not None
    )


def test_uneven_batches_weighted_by_samples(pair: Pool) -> None:
    assert max(pair.run(uneven_samples)) < 1e-13


def micro_batches(reduce: str, rule: str, how: str) -> tuple[float, bool, int]:
    """Four micro-batches of which the last one exchanges."""
    net, reference = network(), network()
    made = {"UPGrad": UPGrad(), "FAMO": FAMO()}[rule]
    opt, expected = together(net, made, reduce=reduce), alone(reference, made)
    exchanged = 0
    for i in range(3):
        for one, model, mine in ((opt, net, share), (expected, reference, lambda x: x)):
            one.zero_grad()
            for micro in range(4):
                losses = losses_of(model, mine(batch(4 * i + micro, 2)))
                if how == "join":
                    (one.join(losses) / 4).backward()
                elif one is opt and micro < 3:
                    with opt.no_sync():
                        seen = opt.backward(losses)
                    assert bool(seen.gram.isnan().all())
                    exchanged += sum(p.grad is not None for p in net.parameters())
                else:
                    one.backward(losses)
            one.step()
    return distance(net, reference), same_everywhere(net), exchanged


@REDUCE
@pytest.mark.parametrize(("rule", "how"), [("UPGrad", "backward"), ("UPGrad", "join")])
def test_micro_batches_without_exchange(pair: Pool, reduce: str, rule: str, how: str) -> None:
    for apart, same, exchanged in pair.run(micro_batches, reduce, rule, how):
        assert same
        assert apart < 1e-12
        assert exchanged == 0


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


def infinite(reduce: str) -> list[bool]:
    """An overflow on rank 1 only: with a scaler, every process skips the step and halves the scale."""
    net = network(torch.float32)
    opt = together(net, UPGrad(), reduce=reduce)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in net.parameters()]
    losses = losses_of(net, batch(0, 1, torch.float32))
    if distributed.get_rank() == 1:
        losses["b"] = losses["b"] * torch.inf
    opt.backward(losses, scaler=scaler)
    everywhere_nan = all(bool(p.grad.isnan().all()) for p in net.parameters() if p.grad is not None)
    scaler.step(opt)
    scaler.update()
    unchanged = all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    return [everywhere_nan, unchanged, scaler.get_scale() == 2.0]


@REDUCE
def test_an_inf_on_one_process(pair: Pool, reduce: str) -> None:
    assert pair.run(infinite, reduce) == [[True, True, True]] * 2


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


def fails_on_one(where: str) -> tuple[str, bool]:
    net = network()
    opt = together(net, AngleBisector())
    losses = losses_of(net, share(batch(0, 2)))
    if distributed.get_rank() == 1:
        if where == "validation":
            losses["b"] = losses["b"].detach()
        else:
            losses["b"].register_hook(lambda g: 1 / 0)  # type: ignore[arg-type]
    with pytest.raises((RuntimeError, ValueError, ZeroDivisionError)) as raised:
        opt.backward(losses)
    untouched = all(p.grad is None for p in net.parameters())
    opt.backward(losses_of(net, share(batch(2, 2))))
    return f"{raised.type.__name__}: {raised.value}", untouched


@pytest.mark.parametrize("where", ["validation", "backward"])
def test_a_failure_on_one_process_is_told_to_the_others(pair: Pool, where: str) -> None:
    (first, untouched), (second, also) = pair.run(fails_on_one, where)
    own = "ValueError: the loss 'b' has no graph" if where == "validation" else "ZeroDivisionError: division by zero"
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


def means_of_signals() -> tuple[float, float]:
    net = network()
    rank = distributed.get_rank()
    seen: list[tuple[float, float]] = []

    def rule(gram: Tensor, /, *, losses: Tensor, score: Tensor) -> Tensor:
        seen.append((float(losses[0]), float(score)))
        return torch.ones_like(losses)

    p = next(net.parameters())
    MultiObjectiveGradient(
        torch.optim.SGD(net.parameters(), lr=0.1), rule, process_group=distributed.group.WORLD
    ).backward({"a": p.sum() * 0 + rank}, score=torch.tensor(10.0 * rank))
    return seen[0]


def test_losses_and_signals_are_averaged(pair: Pool) -> None:
    assert pair.run(means_of_signals) == [(0.5, 5.0)] * 2


def frozen(reduce: str) -> tuple[float, str]:
    net, reference = network(), network()
    opt, expected = together(net, UPGrad(), reduce=reduce), alone(reference, UPGrad())
    for one, model, mine in ((opt, net, share), (expected, reference, lambda x: x)):
        one.backward(losses_of(model, mine(batch(0, 2))))
        model.trunk[0].weight.requires_grad_(False)
        try:
            one.backward(losses_of(model, mine(batch(1, 2))))
        except ValueError as error:
            return 0.0, str(error)
        one.step()
    return distance(net, reference), ""


def test_parameters_frozen_between_micro_batches(pair: Pool) -> None:
    for apart, _ in pair.run(frozen, "all"):
        assert apart < 1e-12
    for _, message in pair.run(frozen, "scatter"):
        assert message.startswith("reduce='scatter' needs the same parameters on all micro-batches of a step")


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
        ("kind of rule", "all processes need the same losses, in one order: rank 0 has ['a', 'c']; rank 1 has none"),
        ("reduce", "reduce='scatter'"),
        ("shared", "all processes need the same losses, in one order: rank 0 has ['a', 'c']; rank 1 has none"),
        ("signal", "with the signals ['score']"),
        ("weights", "all processes need the same parameters: rank 0 has 9 of shapes"),
    ],
)
def test_processes_that_do_different_things(pair: Pool, what: str, said: str) -> None:
    for message in pair.run(differ, what):
        assert said in message
        assert message.startswith("RankMismatchError: all processes need the same ")
