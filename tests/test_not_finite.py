"""Loss scaling, autocast and what is not finite: nothing steps by half."""

import numpy as np
import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Constant, Sum


def wrapped(params, rule=None, **options):
    return MultiObjectiveGradient(torch.optim.SGD(params, lr=0.1), rule or Sum(), **options)


# ---- what is not finite


class Broken(torch.autograd.Function):
    """The identity, whose gradient is ``value``."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, ctx.value), None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("weight", [1.0, 0.0])
@pytest.mark.parametrize("options", [{}, {"accumulate": False}, {"engine": "hooks"}], ids=str)
def test_a_non_finite_gradient_reaches_every_grad(value, weight, options):
    """Also with weight 0, and in the parameters that the broken loss does not reach: nothing steps by half."""
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    opt = wrapped([a, b, c], Constant({"fine": 1.0, "broken": weight}), **options)
    seen = opt.backward({"fine": (b + a).square().sum(), "broken": Broken.apply(a, value).sum()})
    assert not torch.isfinite(a.grad).any()
    assert not torch.isfinite(b.grad).any()
    assert c.grad is None
    flat = seen.as_dict()
    assert np.isnan([flat["weight/fine"], flat["weight/broken"]]).all()
    assert not np.isfinite(flat["grad_norm/broken"])
    assert np.isfinite([flat["grad_norm/fine"], flat["loss/broken"]]).all()
    assert "nan" in str(seen)


def test_a_non_finite_gradient_and_a_coordinate_rule():
    class Added:
        def combine(self, rows, /):
            return rows.nan_to_num().sum(0)

    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    wrapped([a, b], Added()).backward({"x": a.sum(), "y": Broken.apply(b, float("inf")).sum()})
    assert a.grad.isnan().all()
    assert b.grad.isnan().all()


def test_a_non_finite_micro_batch_spoils_its_step_and_not_the_next():
    a = nn.Parameter(torch.ones(2))
    opt = wrapped([a])
    opt.backward({"x": a.sum()})
    opt.backward({"x": Broken.apply(a, float("nan")).sum()})
    opt.backward({"x": a.sum()})
    assert a.grad.isnan().all()
    opt.zero_grad()
    opt.backward({"x": a.sum()})
    assert a.grad.tolist() == [1.0, 1.0]


def test_a_non_finite_loss_with_finite_gradients_is_shown_and_harmless():
    a = nn.Parameter(torch.ones(2))
    opt = wrapped([a])
    seen = opt.backward({"x": a.sum() + float("inf"), "y": a.sum()})
    assert seen.as_dict()["loss/x"] == float("inf")
    assert a.grad.tolist() == [2.0, 2.0]


# ---- GradScaler


def _scaled(net, x, scaler, rule, **options):
    opt = wrapped(net.parameters(), rule, **options)
    out = net(x)
    return opt, opt.backward({"a": out[:, 0].square().mean(), "b": out[:, 1].exp().mean()}, scaler=scaler)


@pytest.mark.parametrize("options", [{}, {"accumulate": False}, {"engine": "hooks"}], ids=str)
def test_grad_is_scaled_and_the_rule_sees_it_unscaled(options):
    """A power of two changes no bit of what the rule sees."""
    x, shown = torch.randn(5, 3), []
    net = nn.Linear(3, 2)

    def rule(gram, *, losses):
        shown.append((gram, losses))
        return gram.diagonal() ** -0.5 + 0.05

    opt, plain = _scaled(net, x, None, rule, **options)
    expected = [p.grad.clone() for p in net.parameters()]
    opt.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    opt, seen = _scaled(net, x, scaler, rule, **options)
    for p, g in zip(net.parameters(), expected, strict=True):
        assert torch.equal(p.grad, 2.0**12 * g)
    assert torch.equal(seen.gram, plain.gram)
    assert torch.equal(seen.losses, plain.losses)
    first, second = shown[2], shown[5]  # each optimizer probes its rule twice before
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    scaler.unscale_(opt)
    for p, g in zip(net.parameters(), expected, strict=True):
        assert torch.equal(p.grad, g)


BASES = {
    "plain": lambda p: torch.optim.Adam(p, lr=0.01, foreach=False),
    "foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
}


@pytest.mark.parametrize("make", BASES.values(), ids=BASES)
@pytest.mark.parametrize("accumulate", [True, False])
def test_a_scaled_run_is_the_unscaled_run(make, accumulate):
    """unscale_, clipping, step and update, bit for bit; an inf in one loss, weight 0, skips one step and halves."""
    x = torch.randn(8, 3)
    nets = [nn.Linear(3, 2) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    opts = [
        MultiObjectiveGradient(make(net.parameters()), Constant({"a": 1.0, "b": 0.0}), accumulate=accumulate)
        for net in nets
    ]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(5):
        broken = step == 2
        for net, opt in zip(nets, opts, strict=True):
            mine = scaler if opt is opts[0] else None
            if broken and mine is None:
                continue
            opt.zero_grad()
            out = net(x)
            b = Broken.apply(out[:, 1], float("inf")) if broken else out[:, 1]
            opt.backward({"a": out[:, 0].square().mean(), "b": b.mean()}, scaler=mine)
            if mine is None:
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                opt.step()
            else:
                scaler.unscale_(opt)
                nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                scaler.step(opt)
                scaler.update()
        assert scaler.get_scale() == (2.0**9 if step >= 2 else 2.0**10)
        for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            assert torch.equal(p, q)


def test_scaled_micro_batches():
    x, scaler = torch.randn(8, 3), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    net = nn.Linear(3, 2).double()
    opt = wrapped(net.parameters(), AngleBisector())

    def losses(x):
        out = net(x.double())
        return {"a": out[:, 0].square().mean() / 2, "b": out[:, 1].exp().mean() / 2}

    for part in x.chunk(2):
        seen = opt.backward(losses(part), scaler=scaler)
    found = [p.grad / 2.0**10 for p in net.parameters()]
    opt.zero_grad()
    expected = opt.backward({name: 2 * loss for name, loss in losses(x).items()})
    torch.testing.assert_close(found, [p.grad for p in net.parameters()], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(seen.losses, expected.losses, rtol=1e-12, atol=0)


def test_a_disabled_scaler_changes_nothing():
    net, x = nn.Linear(3, 2), torch.randn(5, 3)
    opt, _ = _scaled(net, x, None, AngleBisector())
    expected = net.weight.grad.clone()
    opt.zero_grad()
    _scaled(net, x, torch.amp.GradScaler("cpu", enabled=False), AngleBisector())
    assert torch.equal(net.weight.grad, expected)


def test_under_autocast_the_rule_computes_as_precisely_as_outside():
    """backward inside the region, where only the forward belongs, is a common mistake and none of the rule's."""
    w, directions = nn.Parameter(torch.randn(20)), torch.randn(3, 20)
    opt = wrapped([w], AngleBisector())
    expected = opt.backward({str(i): (w * c).sum() for i, c in enumerate(directions)})
    opt.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        seen = opt.backward({str(i): (w * c).sum() for i, c in enumerate(directions)})
    assert torch.equal(seen.weights, expected.weights)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_autocast_forward(engine):
    net, x = nn.Linear(3, 2), torch.randn(5, 3)
    opt = wrapped(net.parameters(), AngleBisector(), engine=engine)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
        assert out.dtype == torch.bfloat16
        losses = {"a": out[:, 0].float().square().mean(), "b": out[:, 1].mean()}
    rows = [torch.autograd.grad(loss, list(net.parameters()), retain_graph=True) for loss in losses.values()]
    seen = opt.backward(losses)
    vectors = torch.stack([torch.cat([t.double().flatten() for t in row]) for row in rows])
    torch.testing.assert_close(seen.gram.double(), vectors @ vectors.T, rtol=1e-6, atol=0)
    expected = (vectors / vectors.norm(dim=1, keepdim=True)).sum(0).float()
    found = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
