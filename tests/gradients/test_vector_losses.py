"""A loss of shape (n,) is n losses, whatever computes their gradients, and is shown as one."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient, plot
from gradweight.gradients import vector_losses
from gradweight.rules import AngleBisector, Mean, UPGrad


def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    return net, torch.randn(10, 3, dtype=torch.float64), torch.randn(10, 1, dtype=torch.float64)


def per_sample(net, x, y):
    return (net(x) - y).square().mean(1)


def step(engine, losses_of, rule=None, **options):
    net, x, y = problem()
    base = torch.optim.SGD(net.named_parameters(), lr=0.1)
    opt = MultiObjectiveGradient(base, rule or UPGrad(), engine=engine, **options)
    seen = opt.backward(losses_of(net, x, y))
    return seen, [p.grad for p in net.parameters()], opt


def scalars(net, x, y):
    losses = per_sample(net, x, y)
    return {f"sample[{i}]": loss for i, loss in enumerate(losses)} | {"size": net[0].weight.square().sum()}


def vector(net, x, y):
    return {"sample": per_sample(net, x, y), "size": net[0].weight.square().sum()}


def in_functional_form(net, x, y):
    def losses(params):
        out = torch.func.functional_call(net, params, (x,))
        return {"sample": (out - y).square().mean(1), "size": params["0.weight"].square().sum()}

    return losses


@pytest.mark.parametrize("engine", ["auto", "autograd", "batched", "gram", "hooks"])
@pytest.mark.parametrize("losses_of", [vector, in_functional_form])
def test_a_vector_is_as_many_named_scalars(engine, losses_of):
    expected, rows, _ = step("autograd", scalars)
    found, direction, opt = step(engine, losses_of)
    assert found.names == expected.names
    if engine == "auto":
        assert opt.engine_used == ("batched" if losses_of is vector else "func")
    torch.testing.assert_close(found.gram, expected.gram, rtol=1e-10, atol=1e-12)
    for a, b in zip(direction, rows, strict=True):
        # eleven gradients of 41 entries, nearly dependent: the weights magnify rounding
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_join_takes_it():
    _, rows, _ = step("autograd", vector)
    net, x, y = problem()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), UPGrad())
    losses = vector(net, x, y)
    scalar = opt.join(losses)
    torch.testing.assert_close(scalar, losses["sample"].sum() + losses["size"])
    scalar.backward()
    for p, row in zip(net.parameters(), rows, strict=True):
        torch.testing.assert_close(p.grad, row, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        losses = vector(net, x, y)
        torch.testing.assert_close(opt.join(losses), losses["sample"].sum() + losses["size"])


@pytest.mark.parametrize("engine", ["auto", "gram"])
def test_the_gram_matrix_is_that_of_a_peer_with_a_batch_dimension(engine):
    autogram = pytest.importorskip("torchjd.autogram")
    net, x, y = problem()
    peer = autogram.Engine(net, batch_dim=0)
    expected = peer.compute_gramian(per_sample(net, x, y))
    found, *_ = step(engine, lambda *given: {"sample": per_sample(*given)})
    torch.testing.assert_close(found.gram, expected, rtol=1e-6, atol=1e-6)


def test_what_is_shown_is_a_summary():
    seen, _, opt = step("auto", vector, Mean(), history=2)
    opt.step()
    flat = seen.as_dict()
    assert {key for key in flat if key.startswith("loss/")} == {
        "loss/sample.mean", "loss/sample.min", "loss/sample.max", "loss/size",
    }  # fmt: skip
    assert {key for key in flat if key.startswith("cos/")} == {
        f"cos/sample~{other}.{end}" for other in ("sample", "size") for end in ("mean", "min")
    }
    assert flat["loss/sample.mean"] == pytest.approx(seen.losses[:10].mean().item())
    assert flat["weight/sample.max"] == pytest.approx(1 / 11)
    off_diagonal = seen.cosines[:10, :10].sum() - 10
    assert flat["cos/sample~sample.mean"] == pytest.approx(off_diagonal.item() / 90)
    assert str(seen).count("\n") == 2
    assert "sample (mean of 10)" in str(seen)
    pytest.importorskip("matplotlib")
    for draw in (plot.history, plot.conflicts):
        figure = draw(opt.history)
        assert figure.axes
    assert len(plot.history(opt.history).axes[0].lines) == 2
    assert [t.get_text() for t in plot.conflicts(opt.history).axes[0].get_yticklabels()] == ["sample", "size"]


def test_what_is_no_vector_of_losses(monkeypatch):
    w = nn.Parameter(torch.ones(5))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
    with pytest.raises(ValueError, match=r"'a' must be a scalar; got shape \(1, 5\): reduce it first, to a vector"):
        opt.backward({"a": w.unsqueeze(0)})
    with pytest.raises(ValueError, match=r"two losses have the name 'a\[1\]'"):
        opt.backward({"a[1]": w.sum(), "a": w})
    with pytest.raises(ValueError, match=r"'a\[0\]' has no graph"):
        opt.backward({"a": w.detach()})
    monkeypatch.setattr(vector_losses, "MOST", 4)
    with pytest.raises(ValueError, match=r"'a' has 5 values, .* and 4 is the most: .* GiB, .* 25 entries"):
        opt.backward({"a": w})
    assert w.grad is None
    assert opt.backward({"a": w[:1], "b": w[1:].sum()}).names == ("a", "b")
