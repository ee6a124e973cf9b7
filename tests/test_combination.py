"""What a backward saw and decided: numbers against NumPy, and no waiting for the device before they are read."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gradweight import Combination, MultiObjectiveGradient
from gradweight.rules import AngleBisector, Mean, Sum


def combination(rows, weights=None):
    gram = torch.as_tensor(rows @ rows.T)
    m = len(rows)
    names = tuple("abcdefgh"[:m])
    weights = torch.ones(m, dtype=gram.dtype) if weights is None else weights
    return Combination(names, torch.arange(m, dtype=gram.dtype), gram, weights)


@given(st.integers(1, 6), st.integers(1, 7), st.sampled_from([0.0, 1e-100, 1.0, 1e100]), st.integers(0, 2**16))
def test_properties_against_numpy(m, k, scale, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, k))
    rows[0] *= scale
    seen = combination(rows)
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(seen.norms, lengths, rtol=1e-12)
    unit = np.divide(rows, lengths[:, None], out=np.zeros_like(rows), where=lengths[:, None] > 0)
    cosines = np.clip(unit @ unit.T, -1, 1)
    np.testing.assert_allclose(seen.cosines, cosines, rtol=0, atol=1e-12)
    # arccos has infinite slope at 0 and 180 degrees: 1e-12 in the cosine may be 1e-4 degree in the angle
    np.testing.assert_allclose(seen.angles, np.degrees(np.arccos(cosines)), rtol=0, atol=2e-4)
    assert np.array_equal(seen.conflicts, rows @ rows.T < 0)
    flat = seen.as_dict()
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    kinds = ("loss", "weight", "grad_norm", "step_cos", "change")
    keys = [f"{kind}/{name}" for kind in kinds for name in seen.names]
    assert sorted(flat) == sorted(keys + [f"cos/{seen.names[i]}~{seen.names[j]}" for i, j in pairs])
    assert all(type(value) is float for value in flat.values())
    for i, name in enumerate(seen.names):
        assert flat[f"loss/{name}"] == i
        assert flat[f"grad_norm/{name}"] == pytest.approx(lengths[i], rel=1e-12)
    for i, j in pairs:
        assert flat[f"cos/{seen.names[i]}~{seen.names[j]}"] == pytest.approx(cosines[i, j], abs=1e-12)


@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from([1e-100, 1.0, 1e100]), st.integers(0, 2**16))
def test_the_step_against_numpy(m, k, scale, seed):
    rng = np.random.default_rng(seed)
    rows, weights = rng.normal(size=(m, k)), rng.normal(size=m)
    rows[0] *= scale
    seen = combination(rows, torch.as_tensor(weights))
    direction = weights @ rows
    lengths, length = np.linalg.norm(rows, axis=1), np.linalg.norm(direction)
    # a direction that is shorter than its parts by 1e2 has lost four digits of its square
    assume(length > 1e-2 * (np.abs(weights) * lengths).sum())
    expected = rows @ direction / lengths / length
    np.testing.assert_allclose(seen.step_cosines, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(seen.step_angles, np.degrees(np.arccos(np.clip(expected, -1, 1))), rtol=0, atol=2e-3)
    np.testing.assert_allclose(seen.predicted_changes, -rows @ direction, rtol=1e-9, atol=1e-9 * length * lengths.min())
    flat = seen.as_dict()
    for name, cosine, change in zip(seen.names, seen.step_cosines, seen.predicted_changes, strict=True):
        assert (flat[f"step_cos/{name}"], flat[f"change/{name}"]) == (cosine, change)


@given(st.integers(2, 4), st.integers(0, 2**16))
def test_a_small_step_changes_each_loss_as_predicted(m, seed):
    """Eq. 4 to 6 of the adaptive weighted discriminator, on quadratics: the remainder is lr^2 d H d / 2 exactly."""
    rng = np.random.default_rng(seed)
    factors = torch.as_tensor(rng.normal(size=(m, 3, 3)))
    w, lr = nn.Parameter(torch.as_tensor(rng.normal(size=3))), 1e-3
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=lr), AngleBisector() if m == 2 else Sum())

    def losses():
        return {f"loss {i}": (factor @ w).square().sum() / 2 for i, factor in enumerate(factors)}

    seen = opt.backward(losses())
    direction = w.grad.clone()
    opt.step()
    remainder = lr**2 / 2 * (factors @ direction).square().sum(-1)
    after = torch.stack(list(losses().values())).detach()
    # of losses of the size of 10, whose differences are of the size of 1e-3
    torch.testing.assert_close(after - seen.losses, lr * seen.predicted_changes + remainder, rtol=0, atol=1e-13)


def test_a_step_that_has_cancelled():
    """Opposed gradients of weights that undo them: no direction, and not one made of rounding errors."""
    rows = np.array([[3.0, 4.0], [-0.3, -0.4]])
    for dtype in (torch.float32, torch.float64):
        gram = torch.as_tensor(rows @ rows.T).to(dtype)
        seen = Combination(("a", "b"), torch.zeros(2), gram, torch.tensor([0.2, 2.0], dtype=dtype))
        assert seen.step_angles.tolist() == pytest.approx([90, 90])
    nothing = combination(rows, torch.zeros(2, dtype=torch.float64))
    assert nothing.step_cosines.tolist() == nothing.predicted_changes.tolist() == [0, 0]


def test_lengths_whose_squares_leave_the_range():
    """Weights of 1/|g| beyond the range: in float32, 1e-30 times norms of 1e-10 has no square."""
    gram = torch.tensor([[1e-20, 0.5e-20], [0.5e-20, 1e-20]])
    seen = Combination(("a", "b"), torch.zeros(2), gram, torch.full((2,), 1e-30))
    assert seen.step_angles.tolist() == pytest.approx([30, 30], abs=1e-3)


def test_blocks_have_steps_of_their_own():
    first, second = (combination(np.array([[1.0, 0.0], [x, 1.0]])) for x in (-2.0, 2.0))
    unknown = torch.full((2,), math.nan, dtype=torch.float64)
    whole = Combination(first.names, first.losses, first.gram + second.gram, unknown, {"u": first, "v": second})
    flat = whole.as_dict()
    assert [flat[f"change/{block}/a"] for block in "uv"] == [1.0, -3.0]
    assert [flat[f"step_cos/{block}/a"] < 0 for block in "uv"] == [True, False]
    assert not {"change/a", "step_cos/a", "weight/a"} & set(flat)


def test_a_zero_gradient_is_orthogonal_to_everything():
    seen = combination(np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert seen.norms.tolist() == [0.0, 5.0]
    assert seen.cosines.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    assert seen.angles[0, 1].item() == pytest.approx(90)
    assert not seen.conflicts.any()


def test_norms_whose_product_underflows():
    """1e-25 each, in float32: their squares are subnormal or zero, their cosine is not to become 0/0."""
    seen = Combination(("a", "b"), torch.zeros(2), torch.full((2, 2), 1e-40), torch.ones(2))
    assert torch.isfinite(seen.cosines).all()
    assert (seen.cosines.abs() <= 1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(value):
    gram = torch.tensor([[1.0, value], [value, value]])
    seen = Combination(("fine", "broken"), torch.tensor([1.0, value]), gram, torch.full((2,), math.nan))
    flat = seen.as_dict()
    assert flat["grad_norm/fine"] == 1.0
    assert not math.isfinite(flat["grad_norm/broken"])
    assert not math.isfinite(flat["loss/broken"])
    assert math.isnan(flat["weight/fine"])
    assert math.isnan(flat["cos/fine~broken"])
    fine, broken = str(seen).splitlines()[1:]
    assert "nan" in fine
    assert broken.startswith("broken")
    assert "nan" in broken


def test_printing():
    seen = combination(np.array([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1e-7], dtype=torch.float64))
    header, *rows = str(seen).splitlines()
    columns = "loss value weight grad norm angle to a angle to b angle to step change / lr"
    assert header.split() == columns.split()
    assert [row.split() for row in rows] == [
        ["a", "0", "0", "3", "0", "90", "90", "0"],
        ["b", "1", "1e-07", "2", "90", "0", "0", "-4e-07"],
    ]
    assert len({len(line) for line in (header, *rows)}) == 1
    assert "value" in str(combination(np.ones((1, 2))))


def test_it_keeps_no_graph_and_no_memory_of_the_run():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), Sum())
    first = opt.backward({"a": w.sum(), "b": w.square().sum()})
    assert opt.last is first
    before = first.as_dict()
    for field in (first.losses, first.gram, first.weights):
        assert not field.requires_grad
    opt.step()
    second = opt.backward({"a": 3 * w.sum(), "b": w.square().sum()})
    assert opt.last is second
    assert first.as_dict() == before
    with pytest.raises(AttributeError, match="cannot assign"):
        first.weights = second.weights
    assert copy.deepcopy(first).as_dict() == before


def test_weights_that_a_rule_holds_and_changes_later_stay_as_they_were_seen():
    w, schedule = nn.Parameter(torch.ones(2)), torch.tensor([1.0, 8.0])
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), lambda gram: schedule, history=2)
    for _ in range(2):
        opt.zero_grad()
        opt.backward({"a": w.sum(), "b": w.square().sum()})
        opt.step()
        schedule /= 2
    assert [seen.weights.tolist() for seen in opt.history] == [[1.0, 8.0], [0.5, 4.0]]


# ---- no synchronisation: under fake tensors, which have no values, whatever looks at one raises


def _fake_steps(rule, engine="auto", **signals):
    with FakeTensorMode():
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), rule, engine=engine)
        for _ in range(2):
            opt.zero_grad()
            for _ in range(2):
                out = net(torch.randn(5, 3))
                seen = opt.backward({"a": out[:, 0].square().mean(), "b": out[:, 1].exp().mean()}, **signals)
            opt.step()
            # derived, not read
            assert seen.cosines.shape == seen.angles.shape == seen.conflicts.shape == (2, 2)
            assert seen.step_cosines.shape == seen.step_angles.shape == seen.predicted_changes.shape == (2,)
            assert repr(type(seen.norms)).count("FakeTensor")
        return seen


@pytest.mark.parametrize("rule", [Sum(), Mean(), AngleBisector()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("engine", ["autograd", "hooks"])
def test_backward_and_step_wait_for_nothing(rule, engine):
    seen = _fake_steps(rule, engine)
    for read in (seen.as_dict, lambda: str(seen)):
        with pytest.raises(DataDependentOutputException):
            read()


def test_a_rule_that_waits_is_noticed():
    """The test above can fail."""
    with pytest.raises(DataDependentOutputException):
        _fake_steps(lambda gram: gram[0] * gram[0, 0].item())
    with pytest.raises(DataDependentOutputException):
        _fake_steps(lambda gram: gram[0] if gram[0, 0] > 0 else gram[1])


def test_a_scaled_backward_waits_for_nothing():
    with FakeTensorMode():
        w = nn.Parameter(torch.ones(3))
        opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), AngleBisector())
        scaler = torch.amp.GradScaler("cpu")
        for _ in range(2):
            opt.backward({"a": w.exp().sum(), "b": w.sum()}, scaler=scaler)
        assert w.grad.shape == (3,)


def test_signals_wait_for_nothing():
    _fake_steps(lambda gram, *, score, losses, step: gram[0] * score + step, score=0.5)


def test_functions_wait_for_nothing():
    with FakeTensorMode():
        w = nn.Parameter(torch.ones(3))
        opt = MultiObjectiveGradient(torch.optim.SGD([("w", w)], lr=0.1), AngleBisector(), engine="func")
        opt.backward(lambda p: {"a": p["w"].exp().sum(), "b": p["w"].sum()})
        opt.step()
        assert w.grad.shape == (3,)


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{"capturable": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("engine", ["autograd", "batched", "hooks"])
def test_backward_and_step_never_synchronise_on_cuda(options, engine):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).cuda()
    base = torch.optim.Adam(net.parameters(), lr=0.1, **options)
    opt = MultiObjectiveGradient(base, AngleBisector(), engine=engine)
    x = torch.randn(5, 3, device="cuda")
    for step in range(3):
        torch.cuda.set_sync_debug_mode("error" if step else "default")  # the first step may set things up
        try:
            opt.zero_grad()
            for _ in range(2):
                out = net(x)
                seen = opt.backward({"a": out[:, 0].square().mean(), "b": out[:, 1].exp().mean()})
            assert seen.angles.shape == (2, 2)
            assert seen.step_angles.shape == seen.predicted_changes.shape == (2,)
            opt.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert seen.as_dict()["loss/a"] > 0
