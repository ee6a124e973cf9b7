"""Gram: the inner products of the rows, in as few operations as the device that holds them likes best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..torch_private import flattened, in_transform
from .host_access import is_host_readable
from .kernels import kernel_supports, products_kernel
from .layout import LOW_PRECISION, cut, flatten

__all__ = ["CUTS", "Cut", "gram"]


@dataclass(frozen=True)
class Cut:
    """How the rows are cut into pieces on one kind of device; sizes in elements of all rows taken together.

    Args:
        piece: how much is multiplied at a time; on a CPU, by each thread.
        small: tensors below this are copied one after the other into a flat one that is multiplied at once: a copy
            costs less than operations of their own.
        dots: up to how many rows larger tensors are multiplied where they lie, pair by pair; beyond, they are copied
            as well, for one product of matrices.
    """

    piece: int
    small: int
    dots: int


CUTS = {
    # 1.5 MiB of float32, which stays in the cache between the products that need it: memory is read once, not m times
    "cpu": Cut(piece=3 * 2**17, small=2**13, dots=24),
    # What counts is how often something is launched, so what is not large is flattened. Reasoned, not measured yet on
    # any GPU: of n elements a row, m (m + 1) / 2 products where they lie cost as many launches, and a copy costs
    # 8 m n bytes, and 4 n (m - 1) m more because the rows have left the second cache (50 MB) when they are multiplied.
    # Both are equal at n = launch x bandwidth / 8, whatever m: 2 M at 5 us and 3.5 TB/s, 1 M at 3 us or 1.5 TB/s.
    # Counted so over the layers of ResNet-50, BigGAN, ViT-B, DCGAN and an MLP of 25 M parameters, for 2 to 6 losses, 3
    # to 8 us and 1.5 to 3.5 TB/s, 2**22 takes 1.03 times the best power of two on average and 1.4 at worst; 2**20
    # takes 1.25 and 2.6, 2**23 takes 1.08 and 2.3.
    "cuda": Cut(piece=2**25, small=2**22, dots=6),
}

COMPILED = Cut(piece=2**62, small=2**13, dots=24)
"""What a compiler is shown: it cuts large tensors itself, and every piece here would be code of its own to compile."""

_FLAT_DOTS = 6
"""Up to how many rows flat copies are multiplied pair by pair: m (m + 1) / 2 operations, in single precision whatever
is allowed for products of matrices. Beyond, one product in double precision costs no more."""


def gram(rows: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Inner products of the rows, ``G[i, j] = sum_p Re <g_ip, conj g_jp>``, symmetric: (m, m).

    The dtype is float64 if any gradient is double precision, else float32: it says how accurate the entries are.
    Products of half-precision gradients are formed in float32, sums of pieces are added up in float64. A complex
    gradient counts as its real and imaginary parts. Gradients on several devices are reduced where they are, and
    the sums meet on the device of the first one. Nothing is read back by the host.

    Squares must fit float32: with single-precision gradients a norm beyond 1e19 gives inf (and so a direction of
    NaN, never a wrong one), and one below 1e-19 loses digits until, below 1e-22, it counts as zero.
    """
    m = len(rows)
    products: dict[tuple[tuple[int, ...], torch.device, torch.dtype], _Products] = {}
    by_kernel: dict[tuple[torch.device, torch.dtype], list[Sequence[Tensor | None]]] = {}
    everyone = tuple(range(m))
    for column in zip(*rows, strict=True):
        tensors = [t for t in column if t is not None]
        if not tensors:
            continue
        if kernel_supports(tensors, m):
            by_kernel.setdefault((tensors[0].device, tensors[0].dtype), []).append(column)
            continue
        present = everyone if len(tensors) == m else tuple(i for i, t in enumerate(column) if t is not None)
        key = present, tensors[0].device, tensors[0].dtype
        if key not in products:
            products[key] = _Products(len(tensors), key[1])
        products[key].add(tensors)
    dtypes = {dtype for _, _, dtype in products} | {dtype for _, dtype in by_kernel}
    dtype = torch.float64 if dtypes & {torch.float64, torch.complex128} else torch.float32
    parts = [(present, some.sums()) for (present, _, _), some in products.items()]
    parts += [(everyone, products_kernel(columns)) for columns in by_kernel.values()]
    if all(isinstance(sums, list) for _, sums in parts):
        return torch.tensor(_read_total(m, parts), dtype=dtype, device="cpu")  # type: ignore[arg-type]
    entries = iter(_total(m, parts).to(dtype).unbind())
    if m == 1:
        return next(entries).view(1, 1)
    upper = {(i, j): next(entries) for i in range(m) for j in range(i, m)}
    return torch.stack([upper[min(i, j), max(i, j)] for i in range(m) for j in range(m)]).view(m, m)


class _Products:
    """Inner products of aligned 1-D pieces of q rows, all of one dtype on one device."""

    def __init__(self, q: int, device: torch.device) -> None:
        self.compiling = torch.compiler.is_compiling()
        self.cut = COMPILED if self.compiling else CUTS.get(device.type, CUTS["cuda"])
        # threads divide a piece among them, and each has a cache of its own
        threads = torch.get_num_threads() if device.type == "cpu" and not self.compiling else 1
        self.piece = self.cut.piece * threads
        self.wide = device.type in ("cpu", "cuda")  # others may have no double precision
        self.q = q
        self.dots: list[Tensor] = []
        self.matrices: list[Tensor] = []
        self.waiting: list[Sequence[Tensor]] = []
        self.elements = 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        elements = self.q * tensors[0].numel()
        if elements >= self.cut.small and self.q <= self.cut.dots:
            for piece in self.pieces(flatten(tensors), elements):
                self.multiply(piece)
            return
        one = tensors[0]
        if elements > self.piece or one.is_complex() or not all(t.is_contiguous() for t in tensors):
            tensors = flatten(tensors)
        for piece in self.pieces(tensors, elements):
            elements = self.q * piece[0].numel()
            if self.elements + elements > self.piece:
                self.flush()
            self.waiting.append(piece)
            self.elements += elements

    def pieces(self, tensors: Sequence[Tensor], elements: int) -> Iterable[Sequence[Tensor]]:
        if elements <= self.piece:
            return (tensors,)
        return cut(tensors, max(1, self.piece // self.q))

    def flush(self) -> None:
        """Multiply what has been waiting."""
        if not self.waiting:
            return
        flat = _flat([piece[i] for i in range(self.q) for piece in self.waiting])
        flat = flat.view(self.q, flat.numel() // self.q)
        if self.q <= _FLAT_DOTS or not self.wide:
            self.multiply(flat.unbind())
        else:
            flat = flat.to(torch.float64)
            self.matrices.append(flat @ flat.mT)
        self.waiting = []
        self.elements = 0

    def multiply(self, pieces: Sequence[Tensor]) -> None:
        """Each with itself and with those after it."""
        if pieces[0].dtype in LOW_PRECISION:
            pieces = [t.to(torch.float32) for t in pieces]
        for i, t in enumerate(pieces):
            self.dots += [self.product(t, other) for other in pieces[i:]]

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        if self.compiling:  # which fuses this, and would not know how to add up millions of products in float32
            return torch.sum(a * b, dtype=torch.float64 if self.wide else None)
        return torch.dot(a, b)

    def sums(self) -> Tensor | list[float]:
        """The sums over all pieces, of each row with itself and with those after it: q (q + 1) / 2, double precision.

        As numbers if the host can read them.
        """
        self.flush()
        pairs = self.q * (self.q + 1) // 2
        total: Tensor | None = None
        if self.dots:
            dots = torch.stack(self.dots)
            if is_host_readable(dots) and not self.matrices:
                values = dots.tolist()
                return [sum(values[pair::pairs]) for pair in range(pairs)]
            total = dots.view(-1, pairs).sum(0, dtype=torch.float64)
        if self.matrices:
            entries = torch.stack(self.matrices).sum(0).view(-1).unbind()
            upper = torch.stack([entries[i * self.q + j] for i in range(self.q) for j in range(i, self.q)])
            total = upper if total is None else total + upper
        assert total is not None
        return total.tolist() if is_host_readable(total) else total


def _flat(tensors: list[Tensor]) -> Tensor:
    if torch.compiler.is_compiling() or in_transform():
        return torch.cat([t.reshape(-1) for t in tensors])
    # the same in one call, which has no rule for the transforms of torch.func
    return flattened(tensors)


def _read_total(m: int, parts: Sequence[tuple[Sequence[int], list[float]]]) -> list[list[float]]:
    """The sum of upper triangles, each of some of the m rows: (m, m)."""
    total = [[0.0] * m for _ in range(m)]
    for present, sums in parts:
        entries = iter(sums)
        for k, i in enumerate(present):
            for j in present[k:]:
                total[i][j] += next(entries)
                total[j][i] = total[i][j]
    return total


def _total(m: int, parts: Sequence[tuple[Sequence[int], Tensor | list[float]]]) -> Tensor:
    """The sum of upper triangles, each of some of the m rows: (m (m + 1) / 2,), in a number of operations that does
    not depend on how many parts there are."""
    first = next(sums for _, sums in parts if isinstance(sums, Tensor))
    found: dict[tuple[int, int], list[Tensor]] = {(i, j): [] for i in range(m) for j in range(i, m)}
    for present, sums in parts:
        tensor = sums if isinstance(sums, Tensor) else torch.tensor(sums, dtype=torch.float64, device="cpu")
        entries = iter(tensor.to(first.device, non_blocking=True).unbind())
        for k, i in enumerate(present):
            for j in present[k:]:
                found[i, j].append(next(entries))
    zero = first.new_zeros(())
    depth = max(len(entries) for entries in found.values())
    layers = [entries[d] if d < len(entries) else zero for d in range(depth) for entries in found.values()]
    return torch.stack(layers).view(depth, -1).sum(0)
