"""Combination: what one backward saw and decided, kept on the device until it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree

__all__ = ["Combination"]


@dataclass(frozen=True, eq=False)
class Combination:
    """The losses, the Gram matrix of their gradients and the weights that a rule gave them.

    With ``g_i`` the gradient of loss i, ``gram[i, j] = <g_i, g_j>`` and the direction ``sum_i weights[i] g_i``.
    All are detached tensors on the device of the gradients; reading a field or a property launches work there at
    most. Only `as_dict` and printing are host syncs.

    Losses and gradients are sums over the micro-batches since the last ``zero_grad``, without loss scaling. If
    any entry of the Gram matrix is not finite, so is every weight: that is how a NaN in one loss reaches the
    whole direction.

    Args:
        names: names of the losses, in the order of the rows.
        losses: (m,) loss values.
        gram: (m, m) inner products of the gradients; NaN after one backward of a weighted sum, in which no single
            gradient is known (`refresh_every`, and rules that need no gradients).
        weights: (m,) weights; NaN for a rule that acts on coordinates, which has none, and where `blocks` have
            weights of their own.
        blocks: the combination of each block, with ``blocks=`` or ``trunk=``; then `gram` is the sum of theirs and of
            that of the parameters that are left alone. Of a single block, such as a trunk, `gram` and `weights` are the
            block's.

    Example:
        >>> gram = torch.tensor([[4.0, -3.0], [-3.0, 9.0]])
        >>> seen = Combination(("data", "pde"), torch.tensor([0.5, 2.0]), gram, torch.tensor([0.5, 1 / 3]))
        >>> seen.cosines[0, 1], seen.angles[0, 1]
        (tensor(-0.5000), tensor(120.0000))
        >>> print(seen)
        loss      value     weight  grad norm  angle to data  angle to pde
        data        0.5        0.5          2              0           120
        pde           2     0.3333          3            120             0
        >>> sorted(seen.as_dict())[:3]
        ['cos/data~pde', 'grad_norm/data', 'grad_norm/pde']
    """

    names: tuple[str, ...]
    losses: Tensor
    gram: Tensor
    weights: Tensor
    blocks: dict[str, Combination] = field(default_factory=dict)

    @property
    def norms(self) -> Tensor:
        """Length of each gradient, (m,)."""
        return self.gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()

    @property
    def cosines(self) -> Tensor:
        """Cosine of the angle between each two gradients, (m, m) in [-1, 1]; 0 where a gradient is zero."""
        lengths = self.norms
        # divided one after the other: the product of two small norms may underflow
        cosines = self.gram / lengths.unsqueeze(-1) / lengths.unsqueeze(-2)
        either_zero = (lengths.unsqueeze(-1) == 0) | (lengths.unsqueeze(-2) == 0)
        return torch.where(either_zero, torch.zeros_like(cosines), cosines.clamp(-1, 1))

    @property
    def angles(self) -> Tensor:
        """Angle between each two gradients in degrees, (m, m) in [0, 180]; 90 where a gradient is zero."""
        return torch.rad2deg(torch.acos(self.cosines))

    @property
    def conflicts(self) -> Tensor:
        """Whether two gradients make an obtuse angle, (m, m) bool."""
        return self.gram < 0

    def as_dict(self) -> dict[str, float]:
        """Plain floats under flat keys, for any logger; one host sync.

        Keys: ``loss/<name>``, ``weight/<name>``, ``grad_norm/<name>`` and, for each pair, ``cos/<a>~<b>``. With
        blocks, the last three also as ``weight/<block>/<name>`` and so on.
        """
        labelled = [pair for part, prefix in self._parts() for pair in part._labelled(prefix)]
        together = torch.cat([values.to(self.gram.device, torch.float64) for _, values in labelled]).tolist()
        flat = dict(zip((label for labels, _ in labelled for label in labels), together, strict=True))
        if self.blocks:
            for name in self.names:
                del flat[f"weight/{name}"]
        return flat

    def _parts(self) -> list[tuple[Combination, str]]:
        return [(self, ""), *((block, f"{name}/") for name, block in self.blocks.items())]

    def _labelled(self, prefix: str) -> list[tuple[list[str], Tensor]]:
        above = [(i, j) for i in range(len(self.names)) for j in range(i + 1, len(self.names))]
        pairs = [
            ([f"weight/{prefix}{name}" for name in self.names], self.weights),
            ([f"grad_norm/{prefix}{name}" for name in self.names], self.norms),
        ]
        if not prefix:
            pairs.insert(0, ([f"loss/{name}" for name in self.names], self.losses))
        if above:
            cosines = self.cosines
            labels = [f"cos/{prefix}{self.names[i]}~{self.names[j]}" for i, j in above]
            pairs.append((labels, torch.stack([cosines[i, j] for i, j in above])))
        return pairs

    def __str__(self) -> str:
        if self.gram.dim() != 2:
            return f"{len(self.names)} losses {list(self.names)}, a batch of {tuple(self.gram.shape[:-2])} combinations"
        if self.gram.is_meta:
            return f"{len(self.names)} losses {list(self.names)}, on the meta device, without values"
        if self.blocks:
            number = "1 block" if len(self.blocks) == 1 else f"{len(self.blocks)} blocks"
            return "\n\n".join([number, *(f"{b}\n{c}" for b, c in self.blocks.items())])
        flat = self.as_dict()
        header = ["value", "weight", "grad norm", *(f"angle to {name}" for name in self.names)]
        lines = []
        for a in self.names:
            angles = [0.0 if a == b else _angle(flat.get(f"cos/{a}~{b}", flat.get(f"cos/{b}~{a}"))) for b in self.names]
            lines.append([flat[f"loss/{a}"], flat[f"weight/{a}"], flat[f"grad_norm/{a}"], *angles])
        first = max(len("loss"), *(len(name) for name in self.names))
        widths = [max(9, len(title)) for title in header]
        rows = ["  ".join(["loss".ljust(first), *(t.rjust(w) for t, w in zip(header, widths, strict=True))])]
        for name, numbers in zip(self.names, lines, strict=True):
            cells = (f"{x:.4g}".rjust(w) for x, w in zip(numbers, widths, strict=True))
            rows.append("  ".join([name.ljust(first), *cells]))
        return "\n".join(rows)


def _angle(cosine: float | None) -> float:
    return math.nan if cosine is None or math.isnan(cosine) else math.degrees(math.acos(cosine))


# A node of tensors with the names beside them, so that `torch.vmap` and `torch.compile` return it like any output.
_pytree.register_pytree_node(
    Combination,
    lambda c: ([c.losses, c.gram, c.weights, c.blocks], c.names),
    lambda tensors, names: Combination(names, *tensors),
)
