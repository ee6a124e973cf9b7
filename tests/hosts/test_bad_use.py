"""Bad use of `join` and of scalers is an error that says what to write instead, never a silently different run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from .problem import assert_same, batches, losses, network, wrapped

BATCH = batches()[0]


def test_join_twice_before_a_backward() -> None:
    net = network()
    opt = wrapped(net)
    first = opt.join(losses(net, *BATCH))
    with pytest.raises(RuntimeError, match=r"'fit', 'size'.*still waits for its backward: put all losses of a step"):
        opt.join({"penalty": net[0].weight.square().sum()})
    first.backward()  # is none the worse for it
    opt.join(losses(net, *BATCH)).backward()


def test_a_step_that_is_left_out_after_join() -> None:
    """A loop that looks at the loss first, whose variable keeps the scalar until the next one takes its place."""
    net, plain = network(), network()
    opt = wrapped(net)
    for i, batch in enumerate(batches()[:3]):
        opt.zero_grad()
        loss = opt.join(losses(net, *batch))
        if i == 1:
            continue
        loss.backward()
        opt.step()
    by_hand = wrapped(plain)
    for batch in (batches()[0], batches()[2]):
        by_hand.zero_grad()
        by_hand.backward(losses(plain, *batch))
        by_hand.step()
    assert_same(net.state_dict(), plain.state_dict(), tolerance=0.0)


def test_zero_grad_between_join_and_backward() -> None:
    net, plain = network(), network()
    opt, by_hand = wrapped(net), wrapped(plain)
    opt.backward(losses(net, *BATCH))
    loss = opt.join(losses(net, *BATCH))
    opt.zero_grad()
    loss.backward()
    by_hand.backward(losses(plain, *BATCH))
    assert_same(
        {name: p.grad for name, p in net.named_parameters()},
        {name: p.grad for name, p in plain.named_parameters()},
        tolerance=0.0,
    )


@pytest.mark.parametrize("again", [lambda loss: loss.backward(), lambda loss: (2 * loss).backward()])
def test_backward_twice_on_one_joined_scalar(again: Callable[[Tensor], None]) -> None:
    net = network()
    opt = wrapped(net)
    loss = opt.join(losses(net, *BATCH))
    loss.backward()
    grads = {name: p.grad.clone() for name, p in net.named_parameters()}
    with pytest.raises(RuntimeError, match=r"call join\(\) again for each backward"):
        again(loss)
    assert_same({name: p.grad for name, p in net.named_parameters()}, grads, tolerance=0.0)


def test_backward_twice_on_a_multiple_of_a_joined_scalar() -> None:
    """The graph above the scalar is torch's own, and so is its error."""
    net = network()
    opt = wrapped(net)
    loss = opt.join(losses(net, *BATCH)) / 2
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_join_and_backward_in_one_step() -> None:
    net = network()
    opt = wrapped(net)
    opt.join(losses(net, *BATCH)).backward()
    with pytest.raises(ValueError, match=r"all backward\(\) or all join\(\)"):
        opt.backward(losses(net, *BATCH))


@pytest.mark.parametrize(
    ("mistake", "error", "match"),
    [
        ({}, ValueError, "empty"),
        ([torch.zeros(())], TypeError, "mapping"),
        ({"a": 1.0}, TypeError, "'a' must be a scalar tensor"),
        ({"a": torch.zeros(2, 2)}, ValueError, "'a' must be a scalar"),
    ],
    ids=["empty", "list", "number", "matrix"],
)
@pytest.mark.parametrize("enabled", [True, False], ids=["training", "validation"])
def test_what_join_is_given(mistake: Any, error: type[Exception], match: str, enabled: bool) -> None:
    opt = wrapped(network())
    with torch.set_grad_enabled(enabled), pytest.raises(error, match=match):
        opt.join(mistake)


def test_losses_that_were_computed_without_gradients() -> None:
    net = network()
    opt = wrapped(net)
    with torch.no_grad():
        values = losses(net, *BATCH)
    with pytest.raises(ValueError, match="'fit' has no graph"):
        opt.join(values)


@pytest.mark.parametrize("order", ["join first", "penalty first"])
def test_a_term_that_is_added_to_the_joined_scalar_is_not_lost_in_silence(order: str) -> None:
    net = network()
    opt = wrapped(net)

    def two_micro_batches() -> None:
        for batch in batches()[:2]:
            joined = opt.join(losses(net, *batch))
            penalty = torch.stack([p.square().sum() for p in net.parameters()]).sum()
            (joined + penalty if order == "join first" else penalty + joined).backward()

    with pytest.raises(RuntimeError, match=r"(?i)mapping"):
        two_micro_batches()


@pytest.mark.parametrize(
    "differentiate",
    [
        lambda loss, params: loss.backward(inputs=params),
        lambda loss, params: torch.autograd.backward(loss, inputs=params),
        lambda loss, params: torch.autograd.grad(loss, params, allow_unused=True),
    ],
    ids=["method", "function", "grad"],
)
@pytest.mark.parametrize("zeroed", [False, True])
def test_a_backward_with_inputs_is_not_a_backward_of_nothing(differentiate: Any, zeroed: bool) -> None:
    net = network()
    opt = wrapped(net)
    loss = opt.join(losses(net, *BATCH))
    if zeroed:
        opt.zero_grad()
    with pytest.raises(RuntimeError, match=r"call backward\(\) without inputs"):
        differentiate(loss, list(net.parameters()))
    assert all(p.grad is None for p in net.parameters())
    loss.backward()  # is none the worse for it
    assert all(p.grad is not None for p in net.parameters())
    opt.step()


def test_a_step_before_the_backward_of_a_joined_scalar() -> None:
    """As after a backward of a multiple of it that was given inputs, which nothing of ours takes part in."""
    net = network()
    opt = wrapped(net)
    before = [p.detach().clone() for p in net.parameters()]
    loss = opt.join(losses(net, *BATCH)) / 2
    loss.backward(inputs=list(net.parameters()))
    with pytest.raises(RuntimeError, match=r"step\(\) came while .*'fit', 'size'.* still waits for its backward"):
        opt.step()
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    opt.zero_grad()  # leaves it out
    opt.step()
    opt.join(losses(net, *BATCH)).backward()
    opt.step()
    assert not any(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_a_closure_may_leave_out_what_waits() -> None:
    net = network()
    opt = wrapped(net)
    left_out = opt.join(losses(net, *BATCH))

    def closure() -> Tensor:
        opt.zero_grad()
        loss = opt.join(losses(net, *BATCH))
        loss.backward()
        return loss

    assert opt.step(closure) == left_out


def test_unscale_on_the_base_and_step_on_the_wrapper() -> None:
    net = network()
    opt = wrapped(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    opt.backward(losses(net, *BATCH), scaler=scaler)
    scaler.unscale_(opt.base)
    with pytest.raises(RuntimeError, match=r"unscale_\(opt\)|wrapper"):
        scaler.step(opt)
