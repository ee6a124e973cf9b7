"""The Triton kernels against the plain operations that do the same.

Where there is no GPU they run under Triton's interpreter (tests/conftest.py), with the CPU in the place of the device.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.cost.counting import launches
from gradweight import MultiObjectiveGradient
from gradweight.linalg import kernels
from gradweight.linalg.gram import gram
from gradweight.linalg.weighted_sum import weighted_sum
from gradweight.rules import AngleBisector

pytest.importorskip("triton")

# the interpreter calculates with NumPy, which warns of inf and NaN
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.usefixtures("triton_language"),
]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":  # then these are what the marker is for
    pytestmark += [pytest.mark.cuda]

# pieces are as small as the interpreter is slow, or as they are
SHAPES = [(), (0,), (1,), (7,), (64,), (256,), (16, 33), (3, 5, 20)] + [(130, 300)] * (DEVICE == "cuda")


@pytest.fixture(autouse=True)
def _used():
    kernels.DEVICES.add(DEVICE)
    yield
    kernels.DEVICES.discard(DEVICE)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Several chunks and blocks of them in tensors of a few hundred elements."""
    if DEVICE == "cpu":
        monkeypatch.setattr(kernels, "CHUNK", 256)
        monkeypatch.setattr(kernels, "_BLOCK", 64)
        monkeypatch.setattr(kernels, "_MANY_BLOCK", 32)
    kernels._kept_chunks.cache_clear()
    yield
    kernels._kept_chunks.cache_clear()


@st.composite
def columns_of(draw, most=18):
    """One list of m gradients per parameter, of several shapes, dtypes and orders of elements, some missing."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    m = draw(st.integers(1, most))
    columns = []
    for _ in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.complex64]))
        shape = draw(st.sampled_from(SHAPES))
        tensors = [torch.randn(shape).to(dtype).to(DEVICE) for _ in range(m)]
        if len(shape) == 2 and draw(st.booleans()):  # dense, in another order
            tensors = [t.t().contiguous().t() for t in tensors]
        if len(shape) == 2 and draw(st.booleans()):  # and one unlike the others
            tensors[-1] = tensors[-1].t().contiguous().t()
        missing = draw(st.sets(st.integers(0, m - 1))) if draw(st.booleans()) else set()
        columns.append([None if i in missing else t for i, t in enumerate(tensors)])
    if all(t is None for column in columns for t in column):
        columns.append([torch.ones(1, device=DEVICE)] * m)
    return columns


def plainly(function):
    """What the operations of torch give."""
    kernels.DEVICES.discard(DEVICE)
    try:
        return function()
    finally:
        kernels.DEVICES.add(DEVICE)


@given(columns_of())
@settings(max_examples=15)
def test_the_gram_matrix_is_that_of_the_plain_operations(columns):
    rows = [list(row) for row in zip(*columns, strict=True)]
    found, plain = gram(rows), plainly(lambda: gram(rows))
    assert found.dtype == plain.dtype
    lengths = plain.diagonal().double().sqrt()
    # sums of single precision, formed in different orders, differ by some 6e-8 of the rows' lengths
    assert torch.all((found - plain).abs() <= 1e-6 * lengths[:, None] * lengths[None, :] + 1e-30)
    assert torch.equal(found, found.T)


@given(columns_of(), st.booleans(), st.data())
@settings(max_examples=15)
def test_the_direction_is_that_of_the_plain_operations(columns, in_place, data):
    m = len(columns[0])
    rows = [list(row) for row in zip(*columns, strict=True)]
    weights = torch.tensor([data.draw(st.floats(-2, 2, width=32)) for _ in range(m)], device=DEVICE)
    firsts = [next((t for t in column if t is not None), None) for column in columns]
    plain = [None if t is None else torch.empty_like(t) for t in firsts]
    plainly(lambda: weighted_sum(rows, weights, plain))
    found = firsts if in_place else [None if t is None else torch.full_like(t, torch.nan) for t in firsts]
    weighted_sum(rows, weights, found)
    for ours, theirs in zip(found, plain, strict=True):
        if ours is None:
            continue
        # up to 18 terms of size 2 * 4, added up in another order; half precision rounds their sum once
        rtol, atol = {torch.bfloat16: (2**-7, 1e-5), torch.float64: (1e-14, 1e-13)}.get(ours.dtype, (1e-6, 1e-5))
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("m", [2, 7])
def test_what_is_not_finite_stays_so(m):
    inf, nan = float("inf"), float("nan")
    rows = [[torch.ones(300, device=DEVICE), torch.ones(5, device=DEVICE)] for _ in range(m)]
    rows[0][0][299] = inf
    rows[1][1][4] = nan
    found = gram(rows)
    assert found[0, 0] == inf
    assert found[0, 1].isnan()
    assert found[1, 1].isnan()
    assert (found[2:, 2:] == 305).all()
    target = [torch.zeros(300, device=DEVICE), torch.zeros(5, device=DEVICE)]
    weighted_sum(rows, torch.ones(m, device=DEVICE), target)
    assert target[0].tolist() == [m] * 299 + [inf]
    assert target[1][:4].tolist() == [m] * 4
    assert target[1][4].isnan()


def test_a_weight_that_is_not_finite_does_not_reach_what_its_loss_does_not():
    rows = [[torch.ones(4, device=DEVICE), torch.ones(4, device=DEVICE)], [torch.ones(4, device=DEVICE), None]]
    target = [torch.zeros(4, device=DEVICE), torch.zeros(4, device=DEVICE)]
    weighted_sum(rows, torch.tensor([2.0, float("inf")], device=DEVICE), target)
    assert target[0].isinf().all()
    assert target[1].tolist() == [2.0] * 4


def test_an_element_whose_sign_is_yet_to_be_changed_counts_with_it():
    """torch leaves that to whoever reads the imaginary part of a conjugate."""
    row = [torch.tensor(1 + 2j, device=DEVICE).conj().imag]
    assert row[0].is_neg()
    assert row[0].is_contiguous()
    rows = [row, [torch.ones((), device=DEVICE)]]
    assert gram(rows).tolist() == [[4, -2], [-2, 1]]
    target = [torch.zeros((), device=DEVICE)]
    weighted_sum(rows, torch.tensor([1.0, 0.5], device=DEVICE), target)
    assert target[0].item() == -1.5


def test_more_losses_than_the_kernels_take_go_the_plain_way():
    rows = [[torch.randn(9, device=DEVICE)] for _ in range(kernels.MANY + 1)]
    assert torch.equal(gram(rows), plainly(lambda: gram(rows)))


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 20), nn.Tanh(), nn.Linear(20, 2)).to(DEVICE)


@pytest.mark.parametrize("options", [{}, {"accumulate": False}, {"blocks": "layer"}], ids=str)
def test_training_with_them_takes_the_same_steps(options):
    def parameters():
        net = network()
        opt = MultiObjectiveGradient(torch.optim.Adam(net.named_parameters(), 1e-2), AngleBisector(), **options)
        for step in range(4):
            x = torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(step)).to(DEVICE)
            out = net(x)
            opt.zero_grad()
            opt.backward({"a": out[:, 0].square().mean(), "b": (out[:, 1] - 3).square().mean()})
            opt.step()
        return list(net.parameters())

    for ours, theirs in zip(parameters(), plainly(parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("m", [2, 7])
def test_they_wait_for_nothing(m):
    rows = [[torch.randn(3, 5, device=DEVICE), torch.randn(40_000, device=DEVICE)] for _ in range(m)]
    for sizes in (rows, [[t.flatten()[:3] for t in row] for row in rows]):
        weighted_sum(sizes, gram(sizes)[0], sizes[0])  # compiles, and makes the table of these sizes
        torch.cuda.set_sync_debug_mode("error")
        try:
            weighted_sum(sizes, gram(sizes)[0], sizes[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_launches_do_not_grow_with_the_number_of_tensors():
    def count(tensors):
        rows = [[torch.randn(3, 5, device=DEVICE) for _ in range(tensors)] for _ in range(3)]
        run = lambda: weighted_sum(rows, gram(rows)[0], rows[0])  # noqa: E731
        run()  # the table of chunks is made once
        return launches(run)

    assert count(12) == count(2)


def test_a_transform_and_a_compiler_see_the_plain_operations():
    x = torch.randn(3, 2, 5, device=DEVICE)
    batched = torch.func.vmap(lambda x: gram([[row] for row in x.unbind()]))(x)
    torch.testing.assert_close(batched, torch.stack([x_i @ x_i.mT for x_i in x]))
    compiled = torch.compile(lambda x: gram([[row] for row in x.unbind()]), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[0]), x[0] @ x[0].mT)


COMPILED = """
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from gradweight.linalg import kernels, triton_kernels

def compiled(kernel, block, type, wide, pointers, **constants):
    constants |= {"TYPE": type, "WIDE": wide, "CHUNK": kernels.CHUNK, "BLOCK": block}
    signature = pointers | dict.fromkeys(constants, "constexpr")
    return triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))

table = {"addresses": "*i64", "chunks": "*i64"}
real = {tl.float32: "*fp32", tl.float64: "*fp64"}
kinds = {tl.float32: tl.float32, tl.float16: tl.float32, tl.bfloat16: tl.float32, tl.float64: tl.float64}
for type, wide in kinds.items():
    out = table | {"out": real[wide]}
    compiled(triton_kernels.dots, kernels._BLOCK, type, wide, out, M=kernels.FEW)
    for m, padded in ((7, 16), (kernels.MANY, 32)):
        products = compiled(triton_kernels.products, kernels._MANY_BLOCK, type, wide, out, M=m, PADDED=padded)
        # Triton makes one chain of additions of what is added to a product in its own precision: 16,384 in float32
        assert "xf64" in products.asm["ttgir"]
    combine = table | {"targets": "*i64", "weights": real[wide]}
    compiled(triton_kernels.weighted_sum, kernels._BLOCK, type, wide, combine, M=2)
print("compiled")
"""


@pytest.mark.slow
def test_they_compile_for_a_gpu():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], env=environment, capture_output=True, text=True
    )
    assert run.stdout == "compiled\n", run.stderr
