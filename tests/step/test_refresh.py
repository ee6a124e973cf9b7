"""refresh_every: weights found on one step and held for the next ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from ..optimizers import assert_resumes_bit_for_bit


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def losses(net: nn.Module, i: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(i)
    y = net(torch.randn(6, 3, generator=generator, dtype=torch.float64))
    return {"a": y[:, 0].square().mean(), "b": 9 * (y[:, 1] - 1).abs().mean()}


def wrapped(net: nn.Module, every: int) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=0.05), AngleBisector(), refresh_every=every)


def train(net: nn.Module, opt: MultiObjectiveGradient, steps: range) -> None:
    for i in steps:
        opt.zero_grad()
        opt.backward(losses(net, i))
        opt.step()


def test_against_a_loop_by_hand() -> None:
    net, by_hand = network(), network()
    opt, adam = wrapped(net, 3), torch.optim.Adam(by_hand.parameters(), lr=0.05)
    params = list(by_hand.parameters())
    for i in range(8):
        train(net, opt, range(i, i + 1))
        values = list(losses(by_hand, i).values())
        if i % 3 == 0:
            rows = [torch.autograd.grad(v, params, retain_graph=True) for v in values]
            weights = [1 / torch.cat([g.flatten() for g in row]).norm() for row in rows]
        adam.zero_grad()
        sum(w * v for w, v in zip(weights, values, strict=True)).backward()
        adam.step()
        assert opt.last is not None
        torch.testing.assert_close(opt.last.weights, torch.stack(weights), rtol=1e-10, atol=0)
        assert bool(opt.last.gram.isnan().any()) == (i % 3 != 0)
    for p, q in zip(net.parameters(), params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_a_held_step_costs_one_backward_of_the_trunk() -> None:
    net = network()
    opt = wrapped(net, 2)
    walks: list[Tensor] = []
    net[0].register_forward_hook(lambda *out: (out[2].register_hook(walks.append), None)[1])
    train(net, opt, range(1))
    assert len(walks) == 2
    train(net, opt, range(1, 2))
    assert len(walks) == 3


def test_joined_steps_are_those_of_backward() -> None:
    """join() goes backward without building graphs, and a held step builds one, that of the weighted sum."""
    net, twin = network(), network()
    opt, expected = wrapped(net, 2), wrapped(twin, 2)
    for i in range(4):
        opt.zero_grad()
        opt.join(losses(net, i)).backward()
        opt.step()
        train(twin, expected, range(i, i + 1))
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_micro_batches_of_a_step_share_its_weights() -> None:
    whole, parts = network(), network()
    opts = wrapped(whole, 2), wrapped(parts, 2)
    for i in range(4):
        for opt in opts:
            opt.zero_grad()
        opts[0].backward(losses(whole, i))
        for _ in range(2):
            opts[1].backward({name: loss / 2 for name, loss in losses(parts, i).items()})
        for opt in opts:
            opt.step()
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_resume_in_the_middle_is_bit_for_bit() -> None:
    assert_resumes_bit_for_bit(
        network, lambda net: wrapped(net, 3), lambda net, opt, *steps: train(net, opt, range(*steps)), 2, 7
    )


def test_a_new_set_of_losses_is_measured_at_once() -> None:
    net = network()
    opt = wrapped(net, 5)
    train(net, opt, range(1))
    opt.zero_grad()
    seen = opt.backward(losses(net, 1) | {"penalty": sum(p.square().sum() for p in net.parameters())})
    assert not seen.gram.isnan().any()


def test_each_set_of_losses_is_measured_anew_when_its_weights_are_old() -> None:
    """Also where every step that would be due has a loss more: a penalty on every third step."""
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.0), AngleBisector(), refresh_every=3)
    measured = []
    for i in range(10):
        opt.zero_grad()
        values = {"a": (1 + i) * p[0], "b": p[1]} | ({"penalty": p.sum()} if i % 3 == 0 else {})
        seen = opt.backward(dict(reversed(values.items())) if i == 8 else values)
        measured.append(not seen.gram.isnan().any())
        if i % 3:
            age = {1: 0, 2: 1, 4: 0, 5: 1, 7: 0, 8: 1}[i]
            assert seen.names == ("a", "b")
            torch.testing.assert_close(seen.weights, torch.tensor([1 / (1 + i - age), 1.0], dtype=torch.float64))
        opt.step()
    assert measured == [True, True, False] * 3 + [True]


def test_the_number_of_the_step_counts_held_steps_too() -> None:
    seen: list[int] = []

    def counting(gram: Tensor, /, *, step: Tensor) -> Tensor:
        seen.append(int(step))
        return torch.ones_like(gram[0])

    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.01), counting, refresh_every=3)
    seen.clear()  # what it was probed with
    train(net, opt, range(7))
    assert seen == [0, 3, 6]


def test_a_nan_in_a_held_step_reaches_every_gradient() -> None:
    net = network()
    opt = wrapped(net, 2)
    train(net, opt, range(1))
    opt.zero_grad()
    values = losses(net, 1)
    opt.backward({"a": values["a"], "b": values["b"] * torch.nan})
    assert all(p.grad.isnan().all() for p in net.parameters())


def test_errors() -> None:
    net = network()
    with pytest.raises(ValueError, match="refresh_every must be at least 1; got 0"):
        wrapped(net, 0)
    with pytest.raises(ValueError, match=r"refresh_every=2 holds one weight per loss: it needs blocks=None"):
        MultiObjectiveGradient(
            torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), refresh_every=2, blocks="group"
        )
    named = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), AngleBisector(), refresh_every=2)
    with pytest.raises(TypeError, match="refresh_every=2 needs a mapping of tensors; got functions"):
        named.backward({"a": lambda p: p["0.weight"].sum()})
