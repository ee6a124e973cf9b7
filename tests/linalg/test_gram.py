"""The Gram matrix, cut into pieces for any device: the same numbers, and operations that do not grow in number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cost.counting import Launches, launches
from gradweight.linalg import gram as module
from gradweight.linalg.gram import CUTS, Cut, gram

TINY = Cut(piece=40, small=16, dots=3)
"""A cut by which tensors of a few elements are small, large, and larger than a piece."""


@st.composite
def problems(draw):
    torch.manual_seed(draw(st.integers(0, 2**16)))
    m = draw(st.integers(1, 9))
    dtypes = st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.complex64])
    columns = []
    for _ in range(draw(st.integers(1, 8))):
        shape, dtype = (draw(st.integers(0, 7)), draw(st.integers(1, 4))), draw(dtypes)
        tensors = [torch.randn(shape, dtype=torch.float32).to(dtype) for _ in range(m)]
        if draw(st.booleans()):
            tensors = [t.t().contiguous().t() for t in tensors]
        present = draw(st.lists(st.booleans(), min_size=m, max_size=m)) if draw(st.booleans()) else [True] * m
        columns.append([t if here else None for t, here in zip(tensors, present, strict=True)])
    if all(t is None for column in columns for t in column):
        columns.append([torch.ones(1)] * m)
    return [list(row) for row in zip(*columns, strict=True)]


def vectors(rows):
    """The rows as float64 vectors of their real numbers, zeros where a gradient does not exist."""
    like = [next((t for t in column if t is not None), torch.empty(0)) for column in zip(*rows, strict=True)]
    parts = [[torch.zeros_like(p) if t is None else t for t, p in zip(row, like, strict=True)] for row in rows]
    real = [[torch.view_as_real(t) if t.is_complex() else t for t in row] for row in parts]
    return np.stack([torch.cat([t.double().reshape(-1) for t in row]).numpy() for row in real])


@given(problems(), st.sampled_from(["cpu", "cuda", "tiny"]), st.booleans())
def test_every_cut_gives_the_inner_products(rows, cut, is_readable):
    v = vectors(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CUTS, "cpu", TINY if cut == "tiny" else CUTS[cut])
        if not is_readable:  # as on any other device
            patch.setattr(module, "is_host_readable", lambda tensor: False)
        found = gram(rows)
    lengths = np.linalg.norm(v, axis=1)
    assert found.shape == (len(rows), len(rows))
    # products of single precision are rounded to 6e-8 of their size
    assert np.all(np.abs(found.double().numpy() - v @ v.T) <= 1e-6 * np.outer(lengths, lengths) + 1e-30)
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("is_readable", [True, False])
def test_not_finite_entries_stay_what_they_are(is_readable, monkeypatch):
    if not is_readable:
        monkeypatch.setattr(module, "is_host_readable", lambda tensor: False)
    inf, nan = float("inf"), float("nan")
    rows = [[torch.tensor([inf, 1.0]), torch.tensor([-inf])], [torch.tensor([1.0, 0.0]), torch.tensor([1.0])]]
    found = gram(rows)
    assert found[0, 0] == inf
    assert found[0, 1].isnan()
    assert found[1, 1] == 2
    assert gram([[torch.tensor([nan])], [torch.tensor([1.0])]]).isnan().tolist() == [[True, True], [True, False]]
    # a sum beyond the range of float32 of squares that are within it
    assert gram([[torch.full((3,), 1.5e19)]]) == inf


def test_double_precision_is_kept_to_the_last_digits():
    for m in (2, 9):  # pair by pair, and by a product of matrices
        rows = [[torch.randn(1000, dtype=torch.float64) for _ in range(3)] for _ in range(m)]
        np.testing.assert_allclose(gram(rows).numpy(), vectors(rows) @ vectors(rows).T, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("m", [2, 9])
def test_small_gradients_of_many_rows_are_not_rounded_by_what_is_allowed_for_matrix_products(m):
    rows = [[torch.randn(200) for _ in range(5)] for _ in range(m)]
    exact = vectors(rows) @ vectors(rows).T
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = gram(rows)
    finally:
        torch.set_float32_matmul_precision(before)
    np.testing.assert_allclose(found.double().numpy(), exact, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("is_readable", [True, False])
@pytest.mark.parametrize("m", [6, 7, 8, 24, 25])
def test_large_gradients_beside_small_ones(m, is_readable, monkeypatch):
    """On both sides of where small ones are a product of matrices, and where large ones no longer are by themselves."""
    if not is_readable:
        monkeypatch.setattr(module, "is_host_readable", lambda tensor: False)
    torch.manual_seed(m)
    rows = [[torch.randn(2000), torch.randn(7), torch.randn(1500), torch.randn(3, 5)] for _ in range(m)]
    v = vectors(rows)
    lengths = np.linalg.norm(v, axis=1)
    assert np.all(np.abs(gram(rows).double().numpy() - v @ v.T) <= 1e-6 * np.outer(lengths, lengths))  # as above
    assert all(m * row[0].numel() >= CUTS["cpu"].small > m * row[1].numel() for row in rows)


# ---- how many operations


@pytest.mark.parametrize("m", [1, 2, 5, 9])
@pytest.mark.parametrize("holes", [False, True])
def test_launches_on_cuda_do_not_grow_with_the_number_of_tensors(m, holes, monkeypatch):
    monkeypatch.setitem(CUTS, "cpu", CUTS["cuda"])
    monkeypatch.setattr(module, "is_host_readable", lambda tensor: False)

    def count(parameters):
        rows = [[torch.randn(3, 5) for _ in range(parameters)] for _ in range(m)]
        if holes:
            rows[-1][: parameters // 2] = [None] * (parameters // 2)
        return launches(lambda: gram(rows))

    few = count(4)
    assert count(400) == few <= 2 * (m * (m + 1) // 2) + 12


def test_large_tensors_are_multiplied_where_they_lie(monkeypatch):
    """As many products as there are pieces, whatever the tensors: what is copied first is small."""
    monkeypatch.setitem(CUTS, "cpu", replace(CUTS["cuda"], piece=-(-4000 // torch.get_num_threads()), small=1000))
    rows = [[torch.randn(600), torch.randn(5), torch.randn(5000)] for _ in range(2)]
    with Launches() as operations:
        gram(rows)
    # one for the 600, three pieces of the 5000, one for the 5, which the copy is for
    assert operations.names["aten.dot.default"] == 3 * (1 + 3 + 1)
    assert operations.names["aten.cat.default"] == 1


def test_what_a_compiler_is_shown_does_not_grow_with_the_tensors():
    def operators(elements):
        counted = []

        def backend(module, _):
            counted.append(sum(node.op == "call_function" for node in module.graph.nodes))
            return module.forward

        rows = [[torch.randn(elements), torch.randn(7)] for _ in range(2)]
        found = torch.compile(gram, backend=backend, fullgraph=True, dynamic=False)(rows)
        lengths = gram(rows).diagonal().sqrt()
        assert torch.all((found - gram(rows)).abs() <= 1e-6 * lengths[:, None] * lengths)  # as above
        return counted

    assert operators(10 * CUTS["cpu"].piece) == operators(CUTS["cpu"].piece // 4)
