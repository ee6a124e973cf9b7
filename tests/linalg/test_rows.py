"""The arithmetic on rows, in every layout and precision, against flat float64 vectors in NumPy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradweight.linalg import cache_blocked as piecewise
from gradweight.linalg.buffers import in_place_buffers, kept_buffers
from gradweight.linalg.gram import gram
from gradweight.linalg.rows import accumulate
from gradweight.linalg.weighted_sum import weighted_sum

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)
LAYOUTS = ("contiguous", "transposed", "channels last", "expanded", "strided", "narrow")


def flat(tensor):
    """All its real numbers, in logical order, as float64."""
    wide = tensor.resolve_conj().to(torch.complex128 if tensor.is_complex() else torch.float64)
    return torch.view_as_real(wide.contiguous()).numpy().ravel() if tensor.is_complex() else wide.numpy().ravel()


def vector(row, like):
    return np.concatenate([np.zeros_like(flat(p)) if t is None else flat(t) for t, p in zip(row, like, strict=True)])


def laid_out(values, layout):
    """A tensor equal to ``values``, (n, c, h, w), in another order of memory ("expanded" repeats the first value)."""
    if layout == "transposed":
        return values.transpose(0, 1).contiguous().transpose(0, 1)
    if layout == "channels last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "expanded":
        return values[:1, :1, :1, :1].expand(values.shape)
    if layout == "strided":
        return torch.stack([values, values], -1)[..., 0]
    if layout == "narrow":
        return torch.cat([values, values])[: len(values)]
    return values.clone()


tensors = st.tuples(st.sampled_from(LAYOUTS), st.booleans())
parameters = st.tuples(
    st.sampled_from(DTYPES),
    st.sampled_from(LAYOUTS[:3]),
    st.tuples(st.integers(0, 3), *[st.integers(1, 3)] * 3),
    st.just(None),
)


@st.composite
def problems(draw):
    """Parameters of any dtype and layout, and m rows whose tensors have layouts of their own and holes."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    m = draw(st.integers(1, 5))
    params, columns = [], []
    for _ in range(draw(st.integers(1, 4))):
        dtype, layout, shape, _ = draw(parameters)
        params.append(laid_out(torch.randn(shape).to(dtype), layout))
        column = []
        for _ in range(m):
            layout, present = draw(tensors)
            column.append(laid_out(torch.randn(shape, dtype=torch.float32).to(dtype), layout) if present else None)
        columns.append(column)
    for i, row in enumerate(zip(*columns, strict=True)):
        if all(t is None for t in row):
            columns[0][i] = torch.randn_like(params[0])
    return params, [list(row) for row in zip(*columns, strict=True)]


def precision(params):
    """float64 when every sum is formed in it, else float32, whose products are what rounds."""
    double = all(p.dtype in (torch.float64, torch.complex128) for p in params)
    return 1e-13 if double else 1e-6


@given(problems())
def test_gram_is_the_matrix_of_inner_products(problem):
    params, rows = problem
    vectors = np.stack([vector(row, params) for row in rows])
    found = gram(rows)
    double = any(t.dtype in (torch.float64, torch.complex128) for row in rows for t in row if t is not None)
    assert found.dtype == (torch.float64 if double else torch.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_array_less(
        np.abs(found.double().numpy() - vectors @ vectors.T), precision(params) * np.outer(lengths, lengths) + 1e-300
    )
    assert torch.equal(found, found.T)


@given(problems(), st.booleans())
def test_combine_is_the_weighted_sum(problem, in_place):
    check_combination(problem, in_place)


def check_combination(problem, in_place):
    params, rows = problem
    weights = torch.randn(len(rows), dtype=gram(rows).dtype)
    vectors = np.stack([vector(row, params) for row in rows])
    expected, size = weights.double().numpy() @ vectors, np.abs(weights.double().numpy()) @ np.abs(vectors)
    out = in_place_buffers(rows, params) if in_place else kept_buffers(rows, params, {})
    weighted_sum(rows, weights, out)
    for p, target, *column in zip(params, out, *rows, strict=True):
        assert (target is None) == all(t is None for t in column)
        if target is not None:
            assert (target.shape, target.dtype) == (p.shape, p.dtype)
            assert not target.requires_grad
            assert target.stride() == p.stride() or p.numel() == 0
    # half precision rounds once, at the end
    rounding = max(2 * torch.finfo(p.dtype).eps for p in params)
    error = np.abs(vector(out, params) - expected)
    assert (error <= rounding * (np.abs(expected) + size) + 1e-6 * size * (rounding > 1e-10) + 1e-7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS[:3])
@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_combine_in_pieces_is_the_weighted_sum(dtype, layout, m, monkeypatch):
    """Gradients in the order of their parameter, which can be cut without a copy, and one that is in another."""
    parameter = laid_out(torch.randn(3, 4, 5, 2).to(dtype), layout)
    weights = torch.linspace(-1, 2, m, dtype=torch.float64)
    for piece, last, in_place in itertools.product((1, 7, 1000), ("contiguous", layout, "strided"), (False, True)):
        monkeypatch.setattr(piecewise, "CACHED", piece)
        layouts = [layout] * (m - 1) + [last if m > 1 else layout]
        rows = [[laid_out(torch.randn(3, 4, 5, 2).to(dtype), some)] for some in layouts]
        expected = weights.numpy() @ np.stack([flat(row[0]) for row in rows])
        out = in_place_buffers(rows, [parameter]) if in_place else kept_buffers(rows, [parameter], {})
        assert (out[0] is rows[0][0]) == in_place
        weighted_sum(rows, weights, out)
        # each product and each sum is rounded, numbers of a few units
        np.testing.assert_allclose(flat(out[0]), expected, rtol=0, atol=4 * m * torch.finfo(dtype).eps)


@given(problems(), problems())
def test_accumulate_adds_and_leaves_the_old_rows_alone(problem, other):
    params, old = problem
    new = [[None if t is None else torch.randn_like(t) for t in row] for row in old]
    old[0][0], new[-1][-1] = None, None
    before = [[None if t is None else t.clone() for t in row] for row in old]
    expected = [vector(a, params) + vector(b, params) for a, b in zip(old, new, strict=True)]
    found = accumulate(old, new)
    for row, reference in zip(found, expected, strict=True):
        # one addition in the dtype of the parameter, of which half precision is the coarsest
        rounding = max(torch.finfo(p.dtype).eps for p in params)
        np.testing.assert_allclose(vector(row, params), reference, rtol=rounding, atol=rounding)
    for row, kept in zip(old, before, strict=True):
        assert all(t is None or torch.equal(t, k) for t, k in zip(row, kept, strict=True))


@pytest.fixture(params=[1, 2])
def threads(request):
    """As many as divide a piece among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("pieces", "more"), [(0, 1), (1, -1), (1, 0), (1, 1), (3, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_longer_than_a_piece(pieces, more, dtype, threads):
    """Norms that differ by 1e4. A float32 dot product of 2^18 entries is off by a few 1e-6: BLAS adds in float32."""
    n = pieces * piecewise.CACHED * threads + more
    a, b = torch.randn(n).to(dtype), (1e4 * torch.randn(n)).to(dtype)
    found = gram([[a], [b]])
    v = np.stack([flat(a), flat(b)])
    lengths = np.linalg.norm(v, axis=1)
    assert np.abs(found.numpy() - v @ v.T).max() <= 2e-5 * np.outer(lengths, lengths).max()
    assert abs(found[0, 0] - v[0] @ v[0]) <= 2e-5 * v[0] @ v[0]
    target = torch.empty_like(a)
    weighted_sum([[a], [b]], torch.tensor([2.0, 1e-4]), [target])
    np.testing.assert_allclose(
        flat(target), 2 * v[0] + 1e-4 * v[1], rtol=float(torch.finfo(dtype).eps), atol=4 * torch.finfo(dtype).eps
    )


def test_half_precision_is_summed_in_float32():
    """2^16 entries of 1/256: their squares add up to 1, where bfloat16 sums would stop near 2^-8."""
    row = [torch.full((2**16,), 1 / 256, dtype=torch.bfloat16)]
    assert gram([row, row]).tolist() == [[1.0, 1.0], [1.0, 1.0]]
    # 256 + 1 is not a bfloat16 and rounds back to 256: weighting 1 + 256 - 256 must not go through it
    one, big = torch.ones(1, dtype=torch.bfloat16), torch.full((1,), 256.0, dtype=torch.bfloat16)
    out = torch.empty_like(one)
    weighted_sum([[one], [big], [big]], torch.tensor([1.0, 1.0, -1.0]), [out])
    assert out.item() == 1.0


def test_complex_counts_as_real_and_imaginary_parts():
    a, b = torch.tensor([1 + 2j, 3j]), torch.tensor([2 - 1j, 4 + 0j])
    expected = (a * b.conj()).sum().real
    assert gram([[a], [b]])[0, 1] == expected == 0
    assert gram([[a], [torch.conj(a)]])[0, 1] == (a * a).sum().real  # a lazily conjugated tensor


def test_bfloat16_targets_in_another_order_of_memory_are_written():
    """The target has the parameter's strides and the gradients have others: no view may silently be a copy."""
    p = torch.randn(2, 3, 2, 2, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    rows = [[torch.full(p.shape, 2.0, dtype=torch.bfloat16)], [torch.full(p.shape, 3.0, dtype=torch.bfloat16)]]
    target = torch.zeros_like(p)
    weighted_sum(rows, torch.tensor([1.0, 10.0]), [target])
    assert (target == 32).all()


def test_in_place_never_uses_memory_that_two_gradients_share():
    shared = torch.ones(3)
    a, b = torch.zeros(3), torch.zeros(3)
    rows = [[shared, shared], [torch.full((3,), 2.0), torch.full((3,), 3.0)]]
    out = in_place_buffers(rows, [a, b])
    weighted_sum(rows, torch.tensor([1.0, 1.0]), out)
    assert out[0].tolist() == [3.0] * 3
    assert out[1].tolist() == [4.0] * 3


def test_in_place_uses_the_first_row_where_it_may():
    rows = [[None, torch.ones(2, 3)], [torch.ones(4), torch.ones(2, 3)]]
    out = in_place_buffers(rows, [torch.zeros(4), torch.zeros(2, 3)])
    assert out[0] is rows[1][0]
    assert out[1] is rows[0][1]
    transposed = [[torch.ones(3, 2).t()]]
    assert in_place_buffers(transposed, [torch.zeros(2, 3)])[0] is not transposed[0][0]


def test_kept_targets_are_made_once_and_again_when_the_parameter_changes():
    p, kept = torch.nn.Parameter(torch.zeros(2, 3)), {}
    (first,) = kept_buffers([[torch.ones(2, 3)]], [p], kept)
    assert kept_buffers([[torch.ones(2, 3)]], [p], kept)[0] is first
    p.data = p.data.double()
    (second,) = kept_buffers([[torch.ones(2, 3, dtype=torch.float64)]], [p], kept)
    assert second is not first
    assert second.dtype == torch.float64
