"""What `backward` accepts and what it lays into ``.grad``, for every kind of parameter and of rule."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Constant, Mean, Sum


def wrapped(params, rule=None, **options):
    return MultiObjectiveGradient(torch.optim.SGD(params, lr=0.1), rule or Sum(), **options)


@given(
    m=st.integers(1, 6),
    k=st.integers(1, 8),
    accumulate=st.booleans(),
    engine=st.sampled_from(["autograd", "hooks", "auto"]),
    seed=st.integers(0, 2**16),
)
def test_grad_is_the_sum_of_weights_times_gradients(m, k, accumulate, engine, seed):
    """Linear losses c_i . p, some of which skip p or q: the gradients are the c_i themselves."""
    rng = np.random.default_rng(seed)
    c, d = rng.normal(size=(m, k)), rng.normal(size=(m, k + 1))
    for i in range(m):
        if skip := rng.integers(0, 3):
            (c if skip == 1 else d)[i] = 0
    p, q = nn.Parameter(torch.randn(k).double()), nn.Parameter(torch.randn(k + 1).double())
    weights = dict(zip(map(str, range(m)), rng.normal(size=m), strict=True))
    losses = {}
    for i in range(m):
        terms = [t @ torch.from_numpy(v) for t, v in ((p, c[i]), (q, d[i])) if v.any()]
        losses[str(i)] = sum(terms)
    opt = wrapped([p, q], Constant(weights), engine=engine, accumulate=accumulate)
    seen = opt.backward(losses)
    w, rows = np.array(list(weights.values())), np.concatenate([c, d], axis=1)
    np.testing.assert_allclose(seen.gram.numpy(), rows @ rows.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(seen.weights.numpy(), w, rtol=1e-15)
    for parameter, gradients in ((p, c), (q, d)):
        if gradients.any():
            np.testing.assert_allclose(parameter.grad.numpy(), w @ gradients, rtol=1e-12, atol=1e-12)
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("accumulate", [True, False])
def test_a_parameter_that_no_loss_reaches_is_not_decayed(accumulate):
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    base = torch.optim.AdamW([used, unused], lr=0.1, weight_decay=0.5)
    opt = MultiObjectiveGradient(base, Mean(), accumulate=accumulate)
    for _ in range(3):
        opt.zero_grad()
        opt.backward({"a": used.sum(), "b": used.square().sum()})
        assert unused.grad is None
        opt.step()
    assert unused.tolist() == [1.0, 1.0]
    assert unused not in base.state
    assert (used < 1).all()


# ---- kinds of parameters


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(dtype):
    """The Gram matrix is that of the rounded gradients in float64, and the direction is rounded once."""
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)).to(dtype)
    x = torch.randn(16, 8).to(dtype)
    opt = wrapped(net.parameters(), AngleBisector())
    out = net(x).float()
    losses = {"a": out[:, 0].square().mean(), "b": 100 * (out[:, 1] - 1).square().mean()}
    rows = [torch.autograd.grad(loss, list(net.parameters()), retain_graph=True) for loss in losses.values()]
    seen = opt.backward(losses)
    vectors = torch.stack([torch.cat([t.double().flatten() for t in row]) for row in rows])
    assert seen.gram.dtype == torch.float32
    # rows of some hundred entries: float32 products, summed in float32 within a tensor and float64 between them
    torch.testing.assert_close(seen.gram.double(), vectors @ vectors.T, rtol=2e-6, atol=0)
    expected = (vectors / vectors.norm(dim=1, keepdim=True)).sum(0)
    found = torch.cat([p.grad.double().flatten() for p in net.parameters()])
    torch.testing.assert_close(found, expected, rtol=float(torch.finfo(dtype).eps), atol=1e-7)
    assert all(p.grad.dtype == dtype for p in net.parameters())


def test_mixed_dtypes():
    a, b = nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2, dtype=torch.float64))
    c = nn.Parameter(torch.ones(2))
    opt = wrapped([a, b, c], AngleBisector())
    seen = opt.backward(
        {
            "x": 3 * a.float().sum() + b.float().sum() + c.sum(),
            "y": (a.double().sum() + 4 * b.sum()),
        }
    )
    assert seen.gram.dtype == torch.float64
    expected = torch.tensor([[3 * 9 + 2 + 2, 9 + 8], [9 + 8, 3 + 32]], dtype=torch.float64)
    torch.testing.assert_close(seen.gram, expected, rtol=1e-15, atol=0)
    w = expected.diagonal().rsqrt()
    torch.testing.assert_close(b.grad, (w[0] + 4 * w[1]).expand(2), rtol=1e-15, atol=0)
    torch.testing.assert_close(a.grad, (3 * w[0] + w[1]).expand(3).to(torch.bfloat16), rtol=0, atol=0)
    torch.testing.assert_close(c.grad, w[0].expand(2).float(), rtol=1e-6, atol=0)
    opt.step()


@pytest.mark.parametrize("accumulate", [True, False])
def test_complex_parameters(accumulate):
    """As for a parameter that holds the real and the imaginary parts side by side."""
    z = nn.Parameter(torch.randn(4, dtype=torch.complex128))
    parts = nn.Parameter(torch.view_as_real(z.detach()).clone())
    c = torch.randn(4, dtype=torch.complex128)

    def losses(t):
        return {"a": (t * c).real.sum(), "b": t.abs().square().sum(), "c": (t * c).imag.square().sum()}

    opt, twin = (wrapped([p], AngleBisector(), accumulate=accumulate) for p in (z, parts))
    for _ in range(3 if accumulate else 1):
        seen, expected = opt.backward(losses(z)), twin.backward(losses(torch.view_as_complex(parts)))
    torch.testing.assert_close(seen.gram, expected.gram, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.view_as_real(z.grad), parts.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_sparse_embedding_gradients(engine, accumulate):
    sparse, dense = nn.Embedding(7, 3, sparse=True), nn.Embedding(7, 3)
    dense.weight = nn.Parameter(sparse.weight.detach().clone())
    words, others = torch.tensor([1, 1, 4]), torch.tensor([4, 6])
    results = []
    for table in (sparse, dense):
        opt = wrapped(table.parameters(), AngleBisector(), engine=engine, accumulate=accumulate)
        for _ in range(2 if accumulate else 1):
            seen = opt.backward({"a": table(words).square().sum(), "b": table(others).sum()})
        opt.step()
        results.append((seen.gram, table.weight.detach()))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)


def test_parameter_groups_keep_their_own_settings():
    a, b = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    base = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}], lr=1.0)
    opt = MultiObjectiveGradient(base, Constant({"x": 2.0, "y": 3.0}))
    opt.backward({"x": a.sum(), "y": b.sum()})
    opt.step()
    torch.testing.assert_close(torch.cat([a, b]).detach(), torch.tensor([1 - 0.2, 1 - 0.03]))


def test_parameters_without_entries_and_without_dimensions():
    a, b = nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.tensor(2.0))
    opt = wrapped([a, b])
    seen = opt.backward({"x": a.sum() + b, "y": b.square()})
    assert seen.gram.tolist() == [[1.0, 4.0], [4.0, 16.0]]
    assert (a.grad.shape, b.grad.item()) == ((0, 3), 5.0)


# ---- steps of exactly one backward


def test_in_place_steps_are_those_of_the_default():
    nets = [nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(6, 4, dtype=torch.float64)
    opts = [wrapped(net.parameters(), AngleBisector(), accumulate=i == 0) for i, net in enumerate(nets)]
    for _ in range(4):
        for net, opt in zip(nets, opts, strict=True):
            opt.zero_grad()
            out = net(x)
            opt.backward({"a": out[:, 0].square().mean(), "b": out[:, 1].exp().mean()})
            opt.step()
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


def test_in_place_keeps_no_rows_and_no_buffer():
    w = nn.Parameter(torch.ones(4))
    opt = wrapped([w], accumulate=False)
    opt.backward({"a": (w * torch.arange(4.0)).sum(), "b": w.exp().sum()})
    first = w.grad
    opt.step()
    opt.zero_grad()
    opt.backward({"a": (w * torch.arange(4.0)).sum(), "b": w.exp().sum()})
    assert w.grad is not first
    kept = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Sum())
    kept.backward({"a": w.exp().sum()})
    buffer = w.grad
    kept.zero_grad()
    kept.backward({"a": w.exp().sum()})
    assert w.grad is buffer


@pytest.mark.parametrize("between", ["step", "zero_grad", "model.zero_grad"])
def test_a_second_backward_in_place_needs_a_new_step(between):
    net = nn.Linear(2, 1)
    opt = wrapped(net.parameters(), accumulate=False)

    def losses():
        return {"a": net(torch.ones(1, 2)).sum()}

    opt.backward(losses())
    before = net.weight.grad.clone()
    with pytest.raises(RuntimeError, match=r"accumulate=False says .* one backward"):
        opt.backward(losses())
    assert torch.equal(net.weight.grad, before)
    {"step": opt.step, "zero_grad": opt.zero_grad, "model.zero_grad": net.zero_grad}[between]()
    opt.backward(losses())
    assert torch.equal(net.weight.grad, before)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_a_compiled_module(engine):
    """Several losses go backward through its one graph."""
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    torch._dynamo.reset()
    found = []
    for module in (net, torch.compile(net, backend="aot_eager")):
        opt = wrapped(net.parameters(), AngleBisector(), engine=engine)
        opt.zero_grad()
        out = module(x)
        opt.backward({"a": out[:, 0].square().mean(), "b": out[:, 1].exp().mean()})
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*found)


# ---- what a rule is told


def test_signals_arrive_as_tensors_of_the_gram_matrix_s_kind():
    shown = {}
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def rule(gram, *, score, weight=1.0, names, losses, **others):
        shown.update(score=score, weight=weight, names=names, losses=losses, others=others)
        return gram.diagonal() * 0 + 1

    opt = wrapped([w], rule)
    score = w.sum()
    opt.backward({"a": w.sum(), "b": w.square().sum()}, score=score, extra=3)
    assert shown["names"] == ("a", "b")
    assert shown["losses"].tolist() == [2.0, 2.0]
    assert (shown["score"].item(), shown["score"].requires_grad) == (2.0, False)
    assert (shown["others"]["extra"].item(), shown["others"]["extra"].dtype) == (3.0, torch.float64)
    assert shown["weight"] == 1.0


def test_signals_are_averaged_over_micro_batches():
    shown = []
    w = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = wrapped([w], lambda gram, *, score: shown.append(score.item()) or gram[0] * 0 + 1)
    shown.clear()  # what it was probed with
    for score in (1.0, 3.0, 8.0):
        opt.backward({"a": w.sum()}, score=score)
    assert shown == pytest.approx([1.0, 2.0, 4.0], rel=1e-12)


class Signs:
    """A coordinate rule: the sum of the gradients where all of them agree in sign."""

    def combine(self, rows, /):
        agree = (rows.sign() == rows[0].sign()).all(0)
        return torch.where(agree, rows.sum(0), 0.0)


@pytest.mark.parametrize("accumulate", [True, False])
def test_a_coordinate_rule(accumulate):
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))
    opt = wrapped([a, b], Signs(), accumulate=accumulate)
    x, y = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
    seen = opt.backward({"x": (a * x).sum(), "y": (a * y).sum() + b.sum()})
    assert a.grad.tolist() == [2.0, 0.0, 6.0]
    assert b.grad.tolist() == [0.0, 0.0]  # x does not reach b: its gradient there is zero, of no sign
    assert seen.weights.isnan().all()


def test_the_name_set_may_change_between_steps():
    w = nn.Parameter(torch.ones(2))
    opt = wrapped([w], AngleBisector())
    for step in range(4):
        opt.zero_grad()
        losses = {"fit": w.square().sum()} | ({"penalty": w.sum()} if step % 2 == 0 else {})
        assert opt.backward(losses).names == tuple(losses)
        opt.step()
