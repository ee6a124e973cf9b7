"""Accelerate against the loop by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import DataLoader, TensorDataset

from gradweight.rule import Rule

from .problem import BATCH_SIZE, SlowNorms, assert_same, batches, by_hand, halving, losses, network, several, wrapped


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Accelerate keeps its settings in shared state: one test must not set up the next."""
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def loader() -> DataLoader[Any]:
    samples = TensorDataset(*(torch.cat(column) for column in zip(*batches(), strict=True)))
    return DataLoader(samples, batch_size=BATCH_SIZE)  # skip_first_batches wants the batches made by the loader


@pytest.mark.parametrize(
    ("settings", "like"),
    [
        ({}, {}),
        ({"gradient_accumulation_steps": 3}, {"accumulate": 3}),
        ({"mixed_precision": "bf16"}, {"autocast": torch.bfloat16}),
        ({"mixed_precision": "bf16", "gradient_accumulation_steps": 2}, {"autocast": torch.bfloat16, "accumulate": 2}),
    ],
    ids=["plain", "accumulate", "bf16", "bf16, accumulate"],
)
@pytest.mark.parametrize("clip", [{}, {"clip_norm": 0.5}, {"clip_value": 0.05}], ids=["unclipped", "norm", "value"])
def test_the_prepared_loop(clip: dict[str, float], settings: dict[str, Any], like: dict[str, Any]) -> None:
    accelerator = Accelerator(cpu=True, **settings)
    net = network()
    opt = wrapped(net, base=torch.optim.SGD)
    model, prepared, data, schedule = accelerator.prepare(net, opt, loader(), halving(opt))
    for batch in data:
        with accelerator.accumulate(model):
            with accelerator.autocast():
                values = losses(model, *batch)
            accelerator.backward(opt.join(values))
            if accelerator.sync_gradients and "clip_norm" in clip:
                accelerator.clip_grad_norm_(model.parameters(), clip["clip_norm"])
            if accelerator.sync_gradients and "clip_value" in clip:
                accelerator.clip_grad_value_(model.parameters(), clip["clip_value"])
            prepared.step()
            schedule.step()
            prepared.zero_grad()
    assert_same(net.state_dict(), by_hand(scheduler=halving, base=torch.optim.SGD, **clip, **like))


def test_join_is_reached_through_the_prepared_optimizer_too() -> None:
    accelerator = Accelerator(cpu=True)
    net = network()
    model, prepared = accelerator.prepare(net, wrapped(net))
    for batch in batches():
        accelerator.backward(prepared.optimizer.join(losses(model, *batch)))
        prepared.step()
        prepared.zero_grad()
    assert_same(net.state_dict(), by_hand())


@pytest.mark.parametrize(
    ("base", "scheduled"),
    [(torch.optim.Adam, lambda opt: opt.base), (several, lambda opt: opt)],
    ids=["a scheduler that hangs on the base", "several bases"],
)
def test_what_the_scheduler_hangs_on(base, scheduled) -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    net = network()
    opt = wrapped(net, base=base)
    model, prepared, data, schedule = accelerator.prepare(net, opt, loader(), halving(scheduled(opt)))
    for batch in data:
        with accelerator.accumulate(model):
            accelerator.backward(opt.join(losses(model, *batch)))
            prepared.step()
            schedule.step()
            prepared.zero_grad()
    assert_same(net.state_dict(), by_hand(scheduler=halving, base=base, accumulate=2))


@pytest.mark.parametrize("rule", [None, SlowNorms()], ids=["AngleBisector", "SlowNorms"])
def test_resuming_in_the_middle_of_an_epoch(tmp_path: Path, rule: Rule | None) -> None:
    def prepared() -> tuple[Any, ...]:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()
        accelerator = Accelerator(cpu=True)
        net = network()
        opt = wrapped(net, rule)
        return accelerator, net, opt, *accelerator.prepare(net, opt, loader(), halving(opt))

    def train(accelerator: Any, net: Any, opt: Any, model: Any, accelerated: Any, data: Any, schedule: Any) -> None:
        for batch in data:
            accelerator.backward(opt.join(losses(model, *batch)))
            accelerated.step()
            schedule.step()
            accelerated.zero_grad()

    whole = prepared()
    train(*whole)

    accelerator, net, opt, model, accelerated, data, schedule = prepared()
    train(accelerator, net, opt, model, accelerated, [b for i, b in enumerate(data) if i < 6], schedule)
    accelerator.save_state(str(tmp_path / "state"))

    accelerator, net, opt, model, accelerated, data, schedule = prepared()
    accelerator.load_state(str(tmp_path / "state"))
    train(accelerator, net, opt, model, accelerated, accelerator.skip_first_batches(data, 6), schedule)
    assert_same(net.state_dict(), whole[1].state_dict(), tolerance=0.0)
    if rule is None:
        assert_same(net.state_dict(), by_hand(scheduler=halving))


def test_backward_on_the_prepared_optimizer_says_that_it_has_none() -> None:
    accelerator = Accelerator(cpu=True)
    net = network()
    _, prepared = accelerator.prepare(net, wrapped(net))
    with pytest.raises(AttributeError, match=r"no attribute 'backward': .* Write accelerator\.backward\(opt\.join"):
        prepared.backward(losses(net, *batches()[0]))
    with pytest.raises(AttributeError, match=r"no attribute 'split_at': call it on your own opt"):
        prepared.split_at({})


def test_the_explanation_is_for_wrappers_and_hides_nothing() -> None:
    net = network()
    prepared = Accelerator(cpu=True).prepare(wrapped(net))
    assert not hasattr(prepared, "backward")
    assert not hasattr(prepared, "join")
    plain = Accelerator(cpu=True).prepare(torch.optim.SGD(network().parameters(), lr=0.1))
    with pytest.raises(AttributeError, match=r"^'AcceleratedOptimizer' object has no attribute 'backward'$"):
        plain.backward()


def test_under_a_trainer_the_error_says_what_to_return() -> None:
    prepared = Accelerator(cpu=True).prepare(wrapped(network()))
    with pytest.raises(AttributeError, match=r"Return opt\.join\(.* from compute_loss"):
        eval("prepared.join", {"__name__": "transformers.trainer", "prepared": prepared})
    with pytest.raises(AttributeError, match=r"Write accelerator\.backward"):
        _ = prepared.join
