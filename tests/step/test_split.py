"""`split_at`: a host adds up its losses where nobody gets in between, and each has its own gradient all the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.contract.rule_check import needs_losses
from gradweight.rules import CRMOGM, FAMO, Fade, Mean, MoCo, Normalized, NormBalance, Sum, UPGrad
from gradweight.rules.claims import CLAIMS
from gradweight.rules.claims import NAMES as LOSSES

from .splitting import NAMES, Policy, batches, host, same, split, terms, wrapped


@pytest.mark.parametrize("how", ["once", "each"])
@pytest.mark.parametrize("micro", [1, 3])
def test_ppo_is_trained_as_by_backward(how: str, micro: int) -> None:
    """To the last digit: the same operations in the same order, clipping of gradients included."""
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy), wrapped(reference)
    evaluate = split(policy, opt, how)
    for i, batch in enumerate(batches(4 * micro)):
        if i % micro == 0:
            opt.zero_grad()
            direct.zero_grad()
        host(policy, opt, batch, evaluate, 1 / micro)
        # the factor of the host comes first on its way back
        scaled = {name: loss / micro for name, loss in terms(reference.evaluate(batch.x, batch.actions), batch).items()}
        direct.backward(scaled)
        if i % micro == micro - 1:
            for net in (policy, reference):
                nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            opt.step()
            direct.step()
            assert opt.last is not None
            assert direct.last is not None
            assert opt.last.names == NAMES
            torch.testing.assert_close(opt.last.gram, direct.last.gram, rtol=0, atol=0)
            assert opt.last.losses.isnan().all()
    same(policy, reference)


@pytest.mark.parametrize(
    "options",
    [{"engine": "hooks"}, {"engine": "batched"}, {"engine": "gram"}, {"refresh_every": 2}, {"blocks": "layer"}],
    ids=str,
)
def test_with_everything_that_backward_has(options: dict[str, Any]) -> None:
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy, **options), wrapped(reference, **options)
    evaluate = split(policy, opt)
    for batch in batches(3):
        opt.zero_grad()
        direct.zero_grad()
        host(policy, opt, batch, evaluate)
        direct.backward(terms(reference.evaluate(batch.x, batch.actions), batch))
        opt.step()
        direct.step()
    for p, q in zip(policy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)  # batched losses add up in another order


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=4), seed=st.integers(0, 99)
)
def test_the_parts_are_those_of_the_chain_rule(sizes: list[list[int]], seed: int) -> None:
    """Whatever the host computes: one row a name, ``(dt/dp)^T dL/dt``, all of which add up to the gradient of L."""
    torch.manual_seed(seed)
    params = [torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    maps = [[torch.randn(n, 5, dtype=torch.float64) for n in some] for some in sizes]
    mix = torch.randn(sum(map(sum, sizes)), dtype=torch.float64)

    def tensors() -> dict[str, list[Tensor]]:
        inside = torch.tanh(params[0]) * params[1]
        return {f"t{i}": [a @ inside for a in some] for i, some in enumerate(maps)}

    def total(given: dict[str, list[Tensor]]) -> Tensor:
        y = torch.cat([t for some in given.values() for t in some])
        return (mix * y).sin().sum() * y.square().mean()  # no sum of a term each

    seen: list[Tensor] = []
    opt = MultiObjectiveGradient(
        torch.optim.SGD(params, lr=0.1), lambda gram: seen.append(gram) or torch.ones_like(gram[0])
    )
    total(opt.split_at(tensors())).backward()

    named = tensors()
    flat = [t for some in named.values() for t in some]
    cotangents = iter(torch.autograd.grad(total(named), flat, retain_graph=True))
    rows = [
        torch.cat(torch.autograd.grad(some, params, [next(cotangents) for _ in some], retain_graph=True))
        for some in named.values()
    ]
    whole = torch.cat(torch.autograd.grad(total(named), params))
    torch.testing.assert_close(seen[-1], torch.stack(rows) @ torch.stack(rows).T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.cat([p.grad for p in params]), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("off", ["no_grad", "inference_mode", "frozen"])
def test_where_nothing_is_trained_the_tensors_come_back(off: str) -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "frozen": torch.enable_grad}[off]
    policy.requires_grad_(off != "frozen")
    with context():
        out = policy.evaluate(batch.x, batch.actions)
        back = opt.split_at({**out, "none": None})
    assert back.keys() == {*NAMES, "none"}
    assert all(back[name] is out[name] for name in NAMES)
    opt.step()  # nothing waits


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def test_forms() -> None:
    """What comes back has the form of what was given, and the same values in the same memory."""
    net = nn.Linear(2, 5)
    opt = wrapped(net)
    a, b, c, d, e = net(torch.ones(3, 2)).unbind(1)
    out = opt.split_at({"one": a, "list": [b, c], "pair": Pair(d, e), "none": None})
    assert isinstance(out["one"], Tensor)
    assert isinstance(out["list"], list)
    assert isinstance(out["pair"], Pair)
    assert out["none"] is None
    assert out["pair"].b.data_ptr() == e.data_ptr()
    (out["one"].sum() + out["list"][1].square().sum() + out["pair"].a.sum()).backward()  # one of each is enough
    assert opt.last is not None
    assert opt.last.names == ("one", "list", "pair", "none")


def test_one_tensor_under_two_names() -> None:
    net, reference = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    reference.load_state_dict(net.state_dict())
    x = torch.randn(6, 2, dtype=torch.float64)
    opt, direct = wrapped(net), wrapped(reference)
    y = net(x)
    out = opt.split_at({"fit": y, "size": y})
    ((out["fit"] - 1).square().mean() + out["size"].abs().mean()).backward()
    y = reference(x)
    direct.backward({"fit": (y - 1).square().mean(), "size": y.abs().mean()})
    same(net, reference, "grad")


def test_the_host_may_write_to_a_stand_in() -> None:
    net = nn.Linear(2, 2)
    opt = wrapped(net, Sum())
    y = net(torch.ones(1, 2))[0]
    a, b = opt.split_at({"a": y[:1].clone(), "b": y[1:].clone()}).values()
    a.mul_(3)
    (a + b).sum().backward()
    assert net.bias.grad is not None
    assert net.bias.grad.tolist() == [3, 1]


@pytest.mark.parametrize("how", ["once", "each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grad_scaler(how: str, dtype: torch.dtype) -> None:
    policy, reference = Policy(dtype), Policy(dtype)
    rule = NormBalance()
    opt, direct = wrapped(policy, rule), wrapped(reference, rule)
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**12) for _ in range(2))
    for i, batch in enumerate(batches(4, dtype)):
        opt.zero_grad()
        direct.zero_grad()
        bad = torch.inf if i == 1 else 1.0
        out = split(policy, opt, how, scaler=scaler)(batch.x, batch.actions)
        losses = terms(out, batch)
        scaler.scale(losses["policy"] + losses["value"] * bad + losses["entropy"]).backward()
        losses = terms(reference.evaluate(batch.x, batch.actions), batch)
        direct.backward(losses | {"value": losses["value"] * bad}, scaler=other)
        assert opt.last is not None
        assert direct.last is not None
        torch.testing.assert_close(opt.last.gram, direct.last.gram, rtol=0, atol=0, equal_nan=True)
        for each, one in ((scaler, opt), (other, direct)):
            each.unscale_(one)
            each.step(one)
            each.update()
        assert scaler.get_scale() == other.get_scale() == (2.0**12 if i == 0 else 2.0**11)
    same(policy, reference)


def test_half_precision_does_not_underflow() -> None:
    net = nn.Linear(2, 1, bias=False, dtype=torch.float16)
    opt = wrapped(net, Sum())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
    y = opt.split_at({"y": net(torch.ones(1, 2, dtype=torch.float16))}, scaler=scaler)["y"]
    scaler.scale(2.0**-30 * y.float().sum()).backward()  # below the smallest of float16
    assert net.weight.grad is not None
    assert net.weight.grad.tolist() == [[2.0**-15, 2.0**-15]]


def test_step_before_unscaling_is_an_error_as_after_backward() -> None:
    policy = Policy()
    opt = wrapped(policy)
    scaler = torch.amp.GradScaler("cpu")
    host(policy, opt, batches(1)[0], split(policy, opt, scaler=scaler), scaler.get_scale())
    with pytest.raises(RuntimeError, match="still multiplied by the loss scale"):
        opt.step()


# ---- rules


@pytest.mark.parametrize(
    "rule",
    [FAMO(), Normalized(FAMO()), Normalized(UPGrad(), by="loss"), Fade(Mean(), CRMOGM(FAMO()), 3), MoCo(by_loss=True)],
    ids=str,
)
def test_a_rule_that_goes_by_losses_is_refused(rule: Any) -> None:
    policy = Policy()
    opt = wrapped(policy, rule)
    with pytest.raises(TypeError, match=r"gradients and no values of losses.*goes by values: use a rule"):
        opt.split_at({"y": policy.critic(torch.ones(1, 8, dtype=torch.float64))})
    opt.step()  # nothing waits


@pytest.mark.parametrize("claims", [c for c in CLAIMS if c.losses[0] <= 2], ids=lambda c: c.name)
def test_which_rules_go_by_losses(claims: Any) -> None:
    """Those that are not refused give numbers where the values of the losses are NaN."""
    net = nn.Linear(3, 2).double()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), claims.rule)
    y = net(torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    named = dict(zip(LOSSES, y.unbind(1), strict=False))
    if needs_losses(claims.rule):
        with pytest.raises(TypeError, match="goes by values"):
            opt.split_at(named, **claims.signals)
        return
    out = opt.split_at(named, **claims.signals)
    torch.stack([(t + i).square().mean() for i, t in enumerate(out.values())]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


# ---- graphs


@pytest.mark.parametrize("retain", [False, True])
def test_the_tensors_own_graphs_are_retained_with_the_host_s(retain: bool) -> None:
    policy = Policy()
    opt = wrapped(policy)
    y = policy.critic(torch.ones(2, 8, dtype=torch.float64))
    opt.split_at({"y": y})["y"].sum().backward(retain_graph=retain)
    if retain:
        torch.autograd.grad(y.sum(), policy.critic.weight)
    else:
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y.sum(), policy.critic.weight)


def test_one_call_takes_both() -> None:
    """What goes through both is of the later one, and the sum is the whole gradient."""
    policy = Policy()
    opt = wrapped(policy, Sum())
    h = policy.trunk(torch.ones(2, 4, dtype=torch.float64))
    out = opt.split_at({"h": h, "y": policy.critic(h)})
    (out["h"].square().sum() + out["y"].sum()).backward()
    h = policy.trunk(torch.ones(2, 4, dtype=torch.float64))
    params = [*policy.trunk.parameters(), *policy.critic.parameters()]
    expected = torch.autograd.grad(h.square().sum() + policy.critic(h).sum(), params)
    torch.testing.assert_close([p.grad for p in params], list(expected), rtol=1e-12, atol=1e-12)
