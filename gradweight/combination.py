"""Combination: what one backward saw and decided, kept on the device until it is read."""

import math
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import torch
from torch import Tensor
from torch.utils import _pytree

from .summary import grouped

__all__ = ["Combination", "cosine"]


@dataclass(frozen=True, eq=False)
class Combination:
    """The losses, the Gram matrix of their gradients and the weights that a rule gave them.

    With ``g_i`` the gradient of loss i, ``gram[i, j] = <g_i, g_j>`` and the direction ``sum_i weights[i] g_i``.
    All are detached tensors on the device of the gradients; reading a field or a property launches work there at
    most. Only `as_dict` and printing are host syncs.

    Losses and gradients are sums over the micro-batches since the last ``zero_grad``, without loss scaling. If
    any entry of the Gram matrix is not finite, so is every weight: that is how a NaN in one loss reaches the
    whole direction. A rule on averages of the gradients (`gradweight.rules.MConFIG`) is shown theirs: the ``g_i``
    are the averages then, and the value of a loss that was not due is NaN.

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
        loss      value     weight  grad norm  angle to data  angle to pde  angle to step  change / lr
        data        0.5        0.5          2              0           120             60           -1
        pde           2     0.3333          3            120             0             60         -1.5
        >>> sorted(seen.as_dict())[:3]
        ['change/data', 'change/pde', 'cos/data~pde']
    """

    names: tuple[str, ...]
    losses: Tensor
    gram: Tensor
    weights: Tensor
    blocks: "dict[str, Combination]" = field(default_factory=dict)

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
    def step_cosines(self) -> Tensor:
        """Cosine of the angle between each gradient and the direction, (m,) in [-1, 1]; 0 where either is zero.

        A direction that has cancelled to within rounding errors counts as zero: the Gram matrix does not know it.
        """
        lengths = self.weights * self.norms
        largest = lengths.abs().amax(-1, keepdim=True)
        # of lengths relative to the largest: neither small nor large gradients leave the range of the squares
        shares = lengths / largest.masked_fill(largest == 0, 1)
        # products and sums: a matrix product may be rounded to TF32
        inner = (self.cosines * shares.unsqueeze(-2)).sum(-1)
        squared = (shares * inner).sum(-1, keepdim=True)
        cancelled = squared <= 4 * torch.finfo(squared.dtype).eps * shares.abs().sum(-1, keepdim=True).square()
        cosines = inner / squared.masked_fill(cancelled, 1).sqrt()
        return cosines.clamp(-1, 1).masked_fill(cancelled, 0)

    @property
    def step_angles(self) -> Tensor:
        """Angle between each gradient and the direction in degrees, (m,) in [0, 180]; beyond 90 the loss rises."""
        return torch.rad2deg(torch.acos(self.step_cosines))

    @property
    def predicted_changes(self) -> Tensor:
        """First-order change of each loss per unit of learning rate, (m,): ``-<g_i, d>`` with d the direction.

        A step of plain gradient descent, ``-lr d``, changes loss i by ``lr predicted_changes[i] + O(lr^2)``.
        Momentum and Adam step along another vector; what holds for them is the sign, as long as they go roughly along
        -d. Per unit of length of the step it is ``-norms * step_cosines``.

        Reference:
            Zadorozhnyy, Cheng, Ye. Adaptive Weighted Discriminator for Training Generative Adversarial Networks.
            CVPR 2021, arXiv:2012.03149, Eq. 4 to 6, for ascent on two losses.
        """
        return 0 - (self.gram * self.weights.unsqueeze(-2)).sum(-1)  # 0, not -0, for a zero gradient

    @property
    def conflicts(self) -> Tensor:
        """Whether two gradients make an obtuse angle, (m, m) bool."""
        return self.gram < 0

    def as_dict(self) -> dict[str, float]:
        """Plain floats under flat keys, for any logger; one host sync.

        Keys: ``loss/<name>``, ``weight/<name>``, ``grad_norm/<name>``, ``step_cos/<name>`` (`step_cosines`),
        ``change/<name>`` (`predicted_changes`) and, for each pair, ``cos/<a>~<b>``. With blocks, all but the first also
        as ``weight/<block>/<name>`` and so on; what depends on the weights is there for the blocks alone. A vector loss
        of more than 8 values is one name, with ``.mean``, ``.min`` and ``.max`` at the end of the key; its cosines,
        ``cos/<a>~<b>`` with other losses and ``cos/<a>~<a>`` between its values, have ``.mean`` and ``.min``.
        """
        labelled = [pair for part, prefix in self._parts() for pair in part._labelled(prefix)]
        together = torch.cat([values.to(self.gram.device, torch.float64) for _, values in labelled]).tolist()
        flat = dict(zip((label for labels, _ in labelled for label in labels), together, strict=True))
        if self.blocks:
            for label in (label for key in ("weight", "step_cos", "change") for label in self._labels(f"{key}/")):
                del flat[label]
        return flat

    def _parts(self) -> "list[tuple[Combination, str]]":
        return [(self, ""), *((block, f"{name}/") for name, block in self.blocks.items())]

    def _labels(self, prefix: str) -> list[str]:
        return [f"{prefix}{label}{end}" for label, some in grouped(self.names).items() for end in _ends(some)]

    def _labelled(self, prefix: str) -> list[tuple[list[str], Tensor]]:
        groups = grouped(self.names)
        pairs = [
            (self._labels(f"weight/{prefix}"), self._summarised(self.weights)),
            (self._labels(f"grad_norm/{prefix}"), self._summarised(self.norms)),
            (self._labels(f"step_cos/{prefix}"), self._summarised(self.step_cosines)),
            (self._labels(f"change/{prefix}"), self._summarised(self.predicted_changes)),
        ]
        if not prefix:
            pairs.insert(0, (self._labels("loss/"), self._summarised(self.losses)))
        cosines = self.cosines if len(self.names) > 1 else self.gram
        labels, values = [], []
        for (a, some), (b, others) in combinations_with_replacement(groups.items(), 2):
            if a == b and len(some) == 1:
                continue
            if len(some) == len(others) == 1:
                labels.append(f"cos/{prefix}{a}~{b}")
                values.append(cosines[some[0], others[0]])
            else:
                found = cosines[some][:, others]
                if a == b:
                    found = found[~torch.eye(len(some), dtype=torch.bool, device=found.device)]
                labels += [f"cos/{prefix}{a}~{b}.mean", f"cos/{prefix}{a}~{b}.min"]
                values += [found.mean(), found.min()]
        if labels:
            pairs.append((labels, torch.stack(values)))
        return pairs

    def _summarised(self, values: Tensor) -> Tensor:
        groups = grouped(self.names).values()
        if len(groups) == len(self.names):
            return values
        found = []
        for some in groups:
            if len(some) == 1:
                found.append(values[some[0]])
            else:
                part = values[some]
                found += [part.mean(), part.min(), part.max()]
        return torch.stack(found)

    def __str__(self) -> str:
        if self.gram.dim() != 2:
            return f"{len(self.names)} losses {list(self.names)}, a batch of {tuple(self.gram.shape[:-2])} combinations"
        if self.gram.is_meta:
            return f"{len(self.names)} losses {list(self.names)}, on the meta device, without values"
        if self.blocks:
            number = "1 block" if len(self.blocks) == 1 else f"{len(self.blocks)} blocks"
            return "\n\n".join([number, *(f"{b}\n{c}" for b, c in self.blocks.items())])
        flat = self.as_dict()
        groups = grouped(self.names)
        ends = {label: "" if len(some) == 1 else ".mean" for label, some in groups.items()}
        titles = {a: a if len(some) == 1 else f"{a} (mean of {len(some)})" for a, some in groups.items()}
        header = ["value", "weight", "grad norm", *(f"angle to {name}" for name in (*groups, "step")), "change / lr"]
        lines = []
        for a in groups:
            angles = [0.0 if a == b and not ends[a] else _angle(cosine(flat, a, b)) for b in groups]
            angles.append(_angle(flat[f"step_cos/{a}{ends[a]}"]))
            own = [flat[f"{key}/{a}{ends[a]}"] for key in ("loss", "weight", "grad_norm", "change")]
            lines.append([*own[:3], *angles, own[3]])
        first = max(len("loss"), *(len(title) for title in titles.values()))
        widths = [max(9, len(title)) for title in header]
        rows = ["  ".join(["loss".ljust(first), *(t.rjust(w) for t, w in zip(header, widths, strict=True))])]
        for name, numbers in zip(titles.values(), lines, strict=True):
            cells = (f"{x:.4g}".rjust(w) for x, w in zip(numbers, widths, strict=True))
            rows.append("  ".join([name.ljust(first), *cells]))
        return "\n".join(rows)


def _ends(some: list[int]) -> list[str]:
    return [""] if len(some) == 1 else [".mean", ".min", ".max"]


def cosine(flat: dict[str, float], a: str, b: str) -> float | None:
    """The cosine of two losses, in either order, or its mean, from a flat record; None where there is none."""
    keys = [f"cos/{one}~{other}{end}" for one, other in ((a, b), (b, a)) for end in ("", ".mean")]
    return next((flat[key] for key in keys if key in flat), None)


def _angle(cosine: float | None) -> float:
    return math.nan if cosine is None or math.isnan(cosine) else math.degrees(math.acos(cosine))


# A node of tensors with the names beside them, so that `torch.vmap` and `torch.compile` return it like any output.
_pytree.register_pytree_node(
    Combination,
    lambda c: ([c.losses, c.gram, c.weights, c.blocks], c.names),
    lambda tensors, names: Combination(names, *tensors),
)
