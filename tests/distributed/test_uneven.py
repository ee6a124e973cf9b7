"""Processes that differ: losses, parameters and samples of some only, micro-batches, infinities."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, distributed, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import FAMO, AngleBisector, Uncertainty, UPGrad

from .pool import Pool
from .problems import alone, batch, distance, losses_of, network, same_everywhere, share, together, train_both

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
        if how == "split_at":  # at the losses themselves, which a host adds up
            there = [loss for loss in opt.split_at(mine).values() if loss is not None]
            torch.stack(there).sum().backward()
        elif how == "backward":
            opt.backward(mine)  # type: ignore[arg-type]
        else:
            opt.join(mine).backward()  # type: ignore[arg-type]
        opt.step()
    return distance(net, reference), same_everywhere(net)


@REDUCE
@pytest.mark.parametrize("how", ["backward", "join", "split_at"])
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


@pytest.mark.parametrize("every", [1, 2])
def test_one_backward_of_what_a_process_has(pair: Pool, every: int) -> None:
    assert max(pair.run(weighted_losses_of_some, every)) < 1e-12


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
    exchanged, micro = 0, itertools.count()

    def backward(one: MultiObjectiveGradient, model: nn.Module, x: Tensor) -> None:
        nonlocal exchanged
        losses = losses_of(model, x)
        if how == "join":
            (one.join(losses) / 4).backward()
        elif one is opt and next(micro) % 4 < 3:
            with opt.no_sync():
                seen = opt.backward(losses)
            assert bool(seen.gram.isnan().all())
            exchanged += sum(p.grad is not None for p in net.parameters())
        else:
            one.backward(losses)

    train_both((opt, net), (expected, reference), 3, backward, micro_batches=4)
    return distance(net, reference), same_everywhere(net), exchanged


@REDUCE
@pytest.mark.parametrize(("rule", "how"), [("UPGrad", "backward"), ("UPGrad", "join")])
def test_micro_batches_without_exchange(pair: Pool, reduce: str, rule: str, how: str) -> None:
    for apart, same, exchanged in pair.run(micro_batches, reduce, rule, how):
        assert same
        assert apart < 1e-12
        assert exchanged == 0


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
    return seen[-1]


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
