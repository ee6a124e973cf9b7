"""Averages of gradients: proposed by `backward`, kept by the step, otherwise untouched."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import DBMTL, MConFIG, MoCo
from gradweight.step import proposed_averages

from ..rules.averaged_training import NAMES, batch, losses_of, network, parameters, trained, wrapped
from .averaging import every_rule, same, snapshot

# ---- kept by the step


@every_rule
def test_only_a_step_keeps_them(rule: Any) -> None:
    net = network()
    opt = wrapped(rule, net)
    for i in (1, 2):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)))
        opt.step()
    before, state = snapshot(opt), copy.deepcopy(opt.param_groups[0]["rule_state"])
    assert len(before) == (16 if getattr(rule, "for_adam", False) else 12)
    opt.zero_grad()
    opt.backward(losses_of(net, batch(3)))
    first = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    opt.zero_grad()  # left out
    with pytest.raises(ValueError, match="due must name losses"):
        opt.backward(losses_of(net, batch(3)), due="d")
    assert same(snapshot(opt), before)
    assert str(opt.param_groups[0]["rule_state"]) == str(state)
    opt.backward(losses_of(net, batch(3)))
    again = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    opt.step()
    assert not same(snapshot(opt), before)


@every_rule
def test_an_overflow_that_a_scaler_skips_leaves_them(rule: Any) -> None:
    net = network()
    opt = wrapped(rule, net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for i in (1, 2, 3):
        opt.zero_grad()
        losses = losses_of(net, batch(i))
        if i == 2:
            before, at = snapshot(opt), parameters(net)
            losses["b"] = losses["b"] * torch.inf
        opt.backward(losses, scaler=scaler)
        scaler.step(opt)
        scaler.update()
        if i == 2:
            assert same(snapshot(opt), before)
            assert np.array_equal(parameters(net), at)
    assert all(t.isfinite().all() for t in snapshot(opt).values())
    # the same without scaler, and without the step that was skipped
    other = network()
    plain = wrapped(rule, other)
    for i in (1, 3):
        plain.zero_grad()
        plain.backward(losses_of(other, batch(i)))
        plain.step()
    np.testing.assert_allclose(parameters(net), parameters(other), rtol=1e-12)


@every_rule
@pytest.mark.parametrize("options", [{}, {"accumulate": False}, {"engine": "hooks"}, {"blocks": "layer"}], ids=str)
def test_loss_scale_and_host_factors_are_undone(rule: Any, options: dict[str, Any]) -> None:
    net, other = network(), network()
    opt, plain = wrapped(rule, net, **options), wrapped(rule, other, **options)
    for i in (1, 2, 3):
        opt.zero_grad()
        (opt.join(losses_of(net, batch(i))) * 8).backward()
        plain.zero_grad()
        plain.backward(losses_of(other, batch(i)))
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p.grad, 8 * q.grad if q.grad is not None else None, rtol=1e-12, atol=1e-14)
            p.grad /= 8
        opt.step()
        plain.step()
    np.testing.assert_allclose(parameters(net), parameters(other), rtol=1e-12)


@every_rule
def test_micro_batches_are_the_big_batch(rule: Any) -> None:
    net, other = network(), network()
    opt, whole = wrapped(rule, net), wrapped(rule, other)
    for i in (1, 2, 3):
        opt.zero_grad()
        for part in batch(i).chunk(4):
            opt.backward({name: loss / 4 for name, loss in losses_of(net, part).items()})
        opt.step()
        whole.zero_grad()
        whole.backward(losses_of(other, batch(i)))
        whole.step()
    np.testing.assert_allclose(parameters(net), parameters(other), rtol=1e-10)
    for key, value in snapshot(opt).items():
        torch.testing.assert_close(value, snapshot(whole)[key], rtol=1e-10, atol=1e-12)


@every_rule
def test_in_place_and_kept_rows_give_the_same(rule: Any) -> None:
    dues = [None, ["a"], ["b", "c"], None]
    np.testing.assert_array_equal(trained(rule, dues, accumulate=False), trained(rule, dues))


def test_the_same_losses_are_due_in_all_micro_batches_of_a_step() -> None:
    net = network()
    opt = wrapped(MConFIG(), net)
    opt.backward(losses_of(net, batch(1)), due="a")
    with pytest.raises(ValueError, match=r"micro-batches of one step need the same losses: \['a'\] before, \['b'\]"):
        opt.backward(losses_of(net, batch(2)), due="b")
    opt.backward(losses_of(net, batch(2)), due="a")


def test_due_through_join() -> None:
    net = network()
    opt = wrapped(MConFIG(), net)
    for i, name in enumerate(NAMES * 2, 1):
        opt.zero_grad()
        value = opt.join(losses_of(net, batch(i)), due=name)
        assert value.item() == pytest.approx(losses_of(net, batch(i))[name].item())
        value.backward()  # type: ignore[no-untyped-call]
        opt.step()
    np.testing.assert_allclose(parameters(net), trained(MConFIG(), [[n] for n in NAMES * 2]), rtol=1e-12)


# ---- blocks


@pytest.mark.parametrize("rule", [MConFIG(), MoCo(by_loss=True), DBMTL()], ids=lambda r: type(r).__name__)
def test_each_block_has_its_own_and_what_is_left_alone_has_none(rule: Any) -> None:
    """As one optimizer for the block by itself, and a plain one for the rest."""
    net, apart = network(), network()
    opt = wrapped(rule, net, trunk=net[0])  # type: ignore[index]
    trunk = MultiObjectiveGradient(torch.optim.SGD(apart[0].named_parameters(), lr=0.1), rule)  # type: ignore[index]
    head = torch.optim.SGD(apart[2].parameters(), lr=0.1)  # type: ignore[index]
    for i in range(1, 5):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)))
        opt.step()
        losses = losses_of(apart, batch(i))
        trunk.zero_grad()
        trunk.backward(losses, retain_graph=True)
        grads = torch.autograd.grad(sum(losses.values()), list(apart[2].parameters()))  # type: ignore[arg-type,index]
        for p, grad in zip(apart[2].parameters(), grads, strict=True):  # type: ignore[index]
            p.grad = grad
        trunk.step()
        head.step()
    np.testing.assert_allclose(parameters(net), parameters(apart), rtol=1e-10)
    assert {key.split()[0] for key in snapshot(opt)} == {"0", "1"}


def test_a_block_that_no_loss_which_was_due_has_reached() -> None:
    """The head of a task whose turn is later has neither averages nor a direction until then."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"trunk": nn.Linear(3, 4), "a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}).double()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), MConFIG(), blocks="layer")
    for i, due in enumerate("aabab"):
        features, before = net["trunk"](batch(i)).tanh(), [net[name].weight.detach().clone() for name in "ab"]
        opt.zero_grad()
        opt.backward({name: (net[name](features) - 1).square().mean() for name in "ab"}, due=due)
        opt.step()
        moved = [not torch.equal(weight, net[name].weight) for name, weight in zip("ab", before, strict=True)]
        assert moved == [True, i >= 2]
    assert [len(opt.state[net[name].weight]) for name in ("trunk", "a", "b")] == [2, 1, 1]


# ---- where they lie


def test_several_bases() -> None:
    net = network()
    bases = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (net[0], net[2])]  # type: ignore[index]
    opt = MultiObjectiveGradient(bases, MConFIG())
    for i, due in enumerate(NAMES, 1):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)), due=due)
        assert len(opt.state) == 4 * (i > 1)  # a backward makes no entries
        opt.step()
    np.testing.assert_array_equal(parameters(net), trained(MConFIG(), [[due] for due in NAMES]))
    assert all(len(state) == 3 for base in bases for state in base.state.values())


def two_bases(net: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(net[2].parameters()), torch.optim.SGD(net[0].parameters(), lr=0.1)]  # type: ignore[index]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_bases_that_a_host_steps_one_by_one(order: tuple[int, int]) -> None:
    """Adam finds no state but its own before its first step, and each keeps what its step has followed."""
    net, other = network(), network()
    bases = two_bases(net)
    opt, whole = MultiObjectiveGradient(bases, MoCo()), MultiObjectiveGradient(two_bases(other), MoCo())
    for i in range(3):
        for each, of in ((opt, net), (whole, other)):
            each.zero_grad()
            each.backward(losses_of(of, batch(i)))
        for k in order:
            bases[k].step()
        whole.step()
    assert np.array_equal(parameters(net), parameters(other))
    # what is not stepped is not remembered
    before = [[t.clone() for t in base.state[net[i].weight].values()] for base, i in zip(bases, (2, 0), strict=True)]  # type: ignore[index]
    opt.zero_grad()
    opt.backward(losses_of(net, batch(3)))
    bases[1].step()
    after = [list(base.state[net[i].weight].values()) for base, i in zip(bases, (2, 0), strict=True)]  # type: ignore[index]
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


@every_rule
@pytest.mark.parametrize("how", ["hook of the base", "hook of the wrapper", "mark_step"])
def test_gradients_that_are_cleared_as_soon_as_they_were_followed(rule: Any, how: str) -> None:
    net = network()
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    if how == "hook of the base":
        base.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    opt = MultiObjectiveGradient(base, rule)
    if how == "hook of the wrapper":
        opt.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    another = torch.optim.SGD(net.parameters(), lr=0.1)
    for i in (1, 2, 3):
        opt.backward(losses_of(net, batch(i)))
        if how == "mark_step":
            another.step()
            net.zero_grad()
            opt.mark_step()
        else:
            opt.step()
    np.testing.assert_array_equal(parameters(net), trained(rule, [None] * 3))


def test_on_a_gpu_the_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposed_averages, "is_launch_bound", lambda device: True)
    net = network()
    opt = wrapped(MoCo(), net)
    places = []
    for i in (1, 2):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)))
        opt.step()
        places.append([t.data_ptr() for state in opt.state.values() for t in state.values() if isinstance(t, Tensor)])
    assert places[0] == places[1]
    np.testing.assert_array_equal(parameters(net), trained(MoCo(), [None, None]))
