"""`split_at`: bad use is an error that loses nothing, and steps may be left out."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.step import split as split_module

from .splitting import Batch, Policy, batches, host, same, split, terms, wrapped


@pytest.mark.parametrize("calls", [1, 2])
def test_what_the_host_writes_to_is_not_what_another_name_has(calls: int) -> None:
    """Whose value would have changed without its gradient."""

    def write(named: dict[str, Tensor]) -> None:
        opt = wrapped(net)
        out = opt.split_at(named if calls == 1 else {"a": named["a"]})
        with torch.no_grad():
            out["a"].mul_(1)
        if calls == 2:
            out |= opt.split_at({"b": named["b"]})
        torch.stack([t.sum() for t in out.values()]).sum().backward()

    net = nn.Linear(2, 4)
    y = net(torch.ones(3, 2))
    write({"a": y[:, 0], "b": y[:, 1]})
    for named in ({"a": y, "b": y}, {"a": y[:, 1], "b": y.mT}, {"a": net.bias, "b": y}):
        with pytest.raises(RuntimeError, match=r"written to in place, and is a parameter or lies where"):
            write(named)


# ---- bad use


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ([], TypeError, "mapping name -> tensor"),
        ({}, ValueError, "at least one tensor"),
        ({"a": None}, ValueError, "at least one tensor"),
        ({1: torch.ones(1)}, TypeError, "names of tensors must be str"),
        ({"a": 1.0}, TypeError, "a tensor, several or None for 'a'; got float"),
        ({"a": []}, TypeError, "several or None for 'a'"),
        ({"a": [torch.ones(1, requires_grad=True), 2]}, TypeError, "got int for 'a'"),
        ({"a": torch.ones(1, dtype=torch.int64)}, TypeError, "got torch.int64 for 'a'"),
        ({"a": torch.ones(1)}, ValueError, "'a' has no graph"),
    ],
)
def test_what_is_given(given: Any, error: type[Exception], match: str) -> None:
    opt = wrapped(Policy())
    with pytest.raises(error, match=match):
        opt.split_at(given)
    opt.step()


def before_and_after(policy: Policy, opt: MultiObjectiveGradient) -> tuple[list[Any], dict[str, Any]]:
    grads = [None if p.grad is None else p.grad.clone() for p in policy.parameters()]
    return grads, {name: t.clone() for name, t in policy.state_dict().items()}


@pytest.mark.parametrize("given", [False, True], ids=["some", "none"])
def test_tensors_that_the_loss_does_not_come_from(given: bool) -> None:
    """Those that were given in place of the stand-ins, or nothing of them."""
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    out = policy.evaluate(batch.x, batch.actions)
    stand_ins = opt.split_at(out)
    if given:
        torch.stack([*terms(out, batch).values()]).sum().backward()
        with pytest.raises(
            RuntimeError, match=r"still wait for a backward pass: was the loss computed from the tensors"
        ):
            opt.step()
        del stand_ins
        opt.zero_grad()
    else:
        losses = terms(stand_ins, batch)
        with pytest.raises(RuntimeError, match=r"did not come to the tensors.*\['entropy'\]"):
            (losses["policy"] + losses["value"]).backward()
        assert all(p.grad is None for p in policy.parameters())
    host(policy, opt, batch, split(policy, opt))
    opt.step()


def test_a_call_that_the_backward_pass_does_not_come_to() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    losses = terms(split(policy, opt, "each")(batch.x, batch.actions), batch)
    with pytest.raises(RuntimeError, match=r"did not come to the tensors.*\['value', 'entropy'\]"):
        losses["policy"].backward()
    assert all(p.grad is None for p in policy.parameters())
    opt.step()


@pytest.mark.parametrize(("way", "reentrant"), [("split_at", False), ("split_at", True), ("join", True)])
def test_within_a_checkpoint_is_an_error(way: str, reentrant: bool) -> None:
    """A reentrant one would leave the trunk untrained: its backward pass ends at the checkpoint."""
    policy = Policy()
    opt = wrapped(policy)

    def computed(x: Tensor) -> Tensor:
        value = policy.critic(x).square()
        if way == "join":
            return opt.join({"value": value.mean(), "size": value.abs().mean()})
        return opt.split_at({"value": value})["value"].square().sum()

    loss = checkpoint(computed, policy.trunk(batches(1)[0].x), use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"\(\) was called within a backward pass.*outside of what is checkpointed"):
        loss.backward()
    assert all(p.grad is None for p in policy.parameters())


@pytest.mark.parametrize("how", ["result is not used", "inputs"])
def test_a_step_after_tensors_that_were_given_up_warns(how: str) -> None:
    """Also where the graph is gone by then, and zero_grad() came after the forward pass."""
    policy = Policy()
    opt = wrapped(policy)

    def step(batch: Batch, *, right: bool) -> None:
        out = policy.evaluate(batch.x, batch.actions)
        found = opt.split_at(out)
        loss = torch.stack([*terms(found if right or how == "inputs" else out, batch).values()]).sum()
        opt.zero_grad()
        loss.backward(inputs=None if right or how != "inputs" else list(policy.parameters()))

    some = batches(3)
    opt.split_at(policy.evaluate(some[0].x, some[0].actions))  # a forward pass that nothing comes of
    for batch in some[:2]:
        step(batch, right=True)
        opt.step()
    step(some[2], right=False)
    with pytest.warns(UserWarning, match=r"what split_at\(\) returned was given up before a backward pass came to it"):
        opt.step()


def test_without_the_callback_the_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "at_the_end_of_the_backward_pass", lambda function: None)
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    losses = terms(split(policy, opt, "each")(batch.x, batch.actions), batch)
    losses["policy"].backward()
    with pytest.raises(RuntimeError, match=r"\['value', 'entropy'\] still wait"):
        opt.step()


def test_inputs_keep_autograd_from_the_tensors() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    loss = torch.stack([*terms(split(policy, opt)(batch.x, batch.actions), batch).values()]).sum()
    loss.backward(inputs=list(policy.parameters()), retain_graph=True)
    with pytest.raises(RuntimeError, match="without inputs="):
        opt.step()
    loss.backward()
    opt.step()


def test_a_name_twice() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    out = policy.evaluate(batch.x, batch.actions)
    stand_ins = opt.split_at(out)
    with pytest.raises(RuntimeError, match=r"called for \['value'\] while.*a name of its own"):
        opt.split_at({"value": out["value"]})
    with pytest.raises(RuntimeError, match=r"join\(\) was called for \['a'\] while the tensors that split_at\(\)"):
        opt.join({"a": out["value"].mean()})
    torch.stack([*terms(stand_ins, batch).values()]).sum().backward()  # is none the worse for it
    opt.step()


def test_while_a_joined_scalar_waits() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    out = policy.evaluate(batch.x, batch.actions)
    joined = opt.join(terms(out, batch))
    with pytest.raises(RuntimeError, match=r"split_at\(\) was called for .* while the scalar that join\(\) returned"):
        opt.split_at(out)
    joined.backward()


@pytest.mark.parametrize("left", ["dropped", "zero_grad"])
def test_a_step_that_is_left_out(left: str) -> None:
    """As where PPO stops early: what was split is never walked back."""
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy), wrapped(reference)
    for i, batch in enumerate(batches(3)):
        out = split(policy, opt)(batch.x, batch.actions)
        if i == 1:
            if left == "zero_grad":
                opt.zero_grad()
            del out
            gc.collect()
            continue
        opt.zero_grad()  # as hosts do it that zero after the forward
        torch.stack([*terms(out, batch).values()]).sum().backward()
        opt.step()
        direct.zero_grad()
        direct.backward(terms(reference.evaluate(batch.x, batch.actions), batch))
        direct.step()
    for p, q in zip(policy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)  # another sum of the losses


@pytest.mark.parametrize("retain", [False, True])
def test_a_second_backward_pass(retain: bool) -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    loss = split(policy, opt)(batch.x, batch.actions)["value"].sum()
    with pytest.raises(RuntimeError, match="did not come to"):
        loss.backward(retain_graph=True)
    out = opt.split_at({"y": policy.critic(torch.ones(2, 8, dtype=torch.float64))})["y"]
    doubled = out * 2
    doubled.sum().backward(retain_graph=retain)
    grads, _ = before_and_after(policy, opt)
    with pytest.raises(RuntimeError, match="second time"):
        doubled.sum().backward()
    for p, g in zip(policy.parameters(), grads, strict=True):
        assert p.grad is g is None or torch.equal(p.grad, g)


def test_a_tensor_that_is_computed_from_another_s_stand_in() -> None:
    policy = Policy()
    opt = wrapped(policy)
    h = opt.split_at({"h": policy.trunk(torch.ones(2, 4, dtype=torch.float64))})["h"]
    y = opt.split_at({"y": policy.critic(h)})["y"]
    with pytest.raises(RuntimeError, match="give both to one call"):
        (h.square().sum() + y.sum()).backward()
    assert all(p.grad is None for p in policy.parameters())


class Moody:
    """A rule with a memory that fails when it is told to."""

    fails = False

    def init(self, gram: Tensor) -> dict[str, Tensor]:
        return {"steps": torch.zeros(())}

    def update(self, gram: Tensor, state: dict[str, Tensor], /) -> tuple[Tensor, dict[str, Tensor]]:
        if Moody.fails:
            raise ArithmeticError("no weights today")
        return 1 + state["steps"] + 0 * gram[0], {"steps": state["steps"] + 1}


@pytest.mark.parametrize("micro", [1, 2])
def test_a_failed_backward_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch, micro: int) -> None:
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy, Moody()), wrapped(reference, Moody())
    first, second, third = batches(3)
    for one, net in ((opt, policy), (direct, reference)):
        host(net, one, first, split(net, one))
        if micro == 1:
            one.step()
            one.zero_grad()
    before = before_and_after(policy, opt)
    monkeypatch.setattr(Moody, "fails", True)
    with pytest.raises(ArithmeticError, match="no weights today"):
        host(policy, opt, second, split(policy, opt))
    monkeypatch.setattr(Moody, "fails", False)
    after = before_and_after(policy, opt)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    for one, net in ((opt, policy), (direct, reference)):
        host(net, one, third, split(net, one))
        one.step()
    same(policy, reference)
