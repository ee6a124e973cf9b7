"""Statistics of the rows against NumPy, and how a rule is given them: unscaled, of a block, never by the user."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.linalg.layout import CHUNK
from gradweight.linalg.statistics import statistics
from gradweight.rules import PINNAnnealing


def dense(rows: list[list[Tensor | None]]) -> np.ndarray:
    """The oracle's matrix: real and imaginary parts, zeros where a loss does not reach what another one reaches."""
    columns = []
    for tensors in zip(*rows, strict=True):
        one = next((t for t in tensors if t is not None), None)
        if one is not None:
            parts = [torch.zeros_like(one) if t is None else t for t in tensors]
            flat = [(torch.view_as_real(t) if t.is_complex() else t).double().numpy().ravel() for t in parts]
            columns.append(np.stack(flat))
    return np.abs(np.concatenate(columns, axis=1))


@st.composite
def gradients(draw: st.DrawFn) -> list[list[Tensor | None]]:
    m, k = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows: list[list[Tensor | None]] = [[] for _ in range(m)]
    for p in range(k):
        shape = draw(st.sampled_from([(), (0,), (5,), (3, 4), (2, 3, 2)]))
        dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.complex64]))
        for i, row in enumerate(rows):
            tensor = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0 ** (3 * i)
            tensor = tensor.mT.contiguous().mT if len(shape) == 2 and draw(st.booleans()) else tensor
            missing = draw(st.booleans()) and not (i == p == 0)
            row.append(
                None if missing else tensor if p else tensor.reshape(-1)[:1].clone() if shape == (0,) else tensor
            )
    if all(t is None or t.numel() == 0 for row in rows for t in row):
        rows[0][0] = torch.ones(2)
        for row in rows[1:]:
            row[0] = None
    return rows


@given(gradients())
def test_against_numpy(rows: list[list[Tensor | None]]) -> None:
    found, expected = statistics(rows), dense(rows)
    assert found.count == expected.shape[1]
    np.testing.assert_array_equal(found.max_abs.numpy(), expected.max(1))
    # chunks of single-precision entries are added up in single precision
    np.testing.assert_allclose(found.mean_abs.numpy(), expected.mean(1), rtol=1e-6)


def test_long_rows_are_added_up_chunk_by_chunk() -> None:
    """In single precision, entries of 0.1 would stop adding up to what they are long before ten million."""
    n = 40 * CHUNK + 3
    row = torch.full((n,), 0.1)
    row[-1] = -7
    found = statistics([[row], [None]])
    assert found.max_abs.tolist() == [7, 0]
    exact = ((n - 1) * float(np.float32(0.1)) + 7) / n
    np.testing.assert_allclose(found.mean_abs.numpy(), [exact, 0], rtol=2e-6)


def test_parts_of_processes_go_together_one_by_one() -> None:
    rows = [list(torch.randn(4, 6, dtype=torch.float64)) for _ in range(3)]
    whole = statistics(rows)
    shards = [statistics([row[:1] for row in rows]), statistics([row[1:] for row in rows])]
    torch.testing.assert_close(torch.stack([s.max_abs for s in shards]).amax(0), whole.max_abs)
    torch.testing.assert_close(sum(s.sum_abs for s in shards), whole.sum_abs)
    assert sum(s.count for s in shards) == whole.count


def test_nothing_is_read_by_the_host() -> None:
    with FakeTensorMode():
        found = statistics([[torch.randn(3), torch.randn(2, 2)], [None, torch.randn(2, 2)]])
    assert found.mean_abs.shape == (2,)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_shows(bad: float) -> None:
    found = statistics([[torch.tensor([1.0, bad, 2.0])]])
    assert not found.max_abs.isfinite()
    assert not found.mean_abs.isfinite()


# ---- as signals


@dataclass
class Recorder:
    """A rule that keeps what it is given."""

    seen: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, gram: Tensor, /, *, max_abs: Tensor, mean_abs: Tensor) -> Tensor:
        self.seen.append({"max_abs": max_abs, "mean_abs": mean_abs})
        return torch.ones_like(max_abs)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def losses(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    y = net(x)
    # the first does not reach the second output's bias, nor the second anything but the last layer
    return {"a": y[:, 0].square().mean(), "b": net[2].weight.square().sum() * 3}


def oracle(net: nn.Module, x: Tensor, params: list[Tensor]) -> dict[str, np.ndarray]:
    rows = [torch.autograd.grad(v, params, allow_unused=True, retain_graph=True) for v in losses(net, x).values()]
    entries = dense([list(row) for row in rows])
    return {"max_abs": entries.max(1), "mean_abs": entries.mean(1)}


def check(seen: dict[str, Any], expected: dict[str, np.ndarray]) -> None:
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(seen[name].numpy(), value, rtol=1e-12)


@pytest.mark.parametrize("way", ["backward", "scaler", "join", "negative", "zero"])
def test_a_rule_sees_them_unscaled_and_of_the_whole_batch(way: str) -> None:
    net, x, rule = network(), torch.randn(8, 3, dtype=torch.float64), Recorder()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), rule)
    factor = {"join": 64.0, "negative": -3.0, "zero": 0.0}.get(way)
    for part in x.chunk(2):
        values = losses(net, part)
        if factor is not None:
            (opt.join(values) * factor / 2).backward()
        else:
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if way == "scaler" else None
            opt.backward({name: loss / 2 for name, loss in values.items()}, scaler=scaler)
    expected = oracle(net, x, list(net.parameters()))
    check(rule.seen[-1], {name: 0 * value for name, value in expected.items()} if way == "zero" else expected)


def test_each_block_has_its_own() -> None:
    net, x, rule = network(), torch.randn(8, 3, dtype=torch.float64), Recorder()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), rule, blocks="layer")
    opt.backward(losses(net, x))
    for layer, seen in zip((net[0], net[2]), rule.seen, strict=True):
        check(seen, oracle(net, x, list(layer.parameters())))


def test_tensor_by_tensor_is_a_matter_of_blocks() -> None:
    net, x = network(), torch.randn(8, 3, dtype=torch.float64)
    opt = MultiObjectiveGradient(
        torch.optim.SGD(net.named_parameters(), lr=0.1), PINNAnnealing("a", alpha=1.0), blocks=lambda name: name
    )
    seen = opt.backward(losses(net, x))
    expected = oracle(net, x, [net[2].weight])
    ratio = expected["max_abs"][0] / expected["mean_abs"][1]
    np.testing.assert_allclose(seen.blocks["2.weight"].weights.numpy(), [1, ratio], rtol=1e-12)


def test_the_functional_transform_computes_them_too() -> None:
    def two(params: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"residual": (params["w"] * params["w"].detach()).sum(), "data": params["v"].square().sum()}

    params = {"w": torch.tensor([[1.0, -3.0], [2.0, 0.5]]), "v": torch.tensor([[0.5, 1.0], [2.0, -0.25]])}
    direction, seen, _ = torch.vmap(combined_grad(two, PINNAnnealing(alpha=1.0)))(params)
    mean = (2 * params["v"].abs()).sum(1) / 4
    torch.testing.assert_close(seen.weights[:, 1], params["w"].abs().amax(1) / mean)
    torch.testing.assert_close(direction["v"], seen.weights[:, 1:] * 2 * params["v"])


def test_they_come_by_themselves() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Recorder())
    with pytest.raises(TypeError, match="Recorder has no signal 'max_abs'"):
        opt.backward(losses(net, torch.randn(8, 3, dtype=torch.float64)), max_abs=1.0)


def test_a_process_that_holds_nothing_of_any_row() -> None:
    found = statistics([[torch.empty(0), None], [torch.empty(0), torch.empty(0, 3)]])
    assert found.max_abs.tolist() == found.sum_abs.tolist() == [0.0, 0.0]
    assert found.count == 0
