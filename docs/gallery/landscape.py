"""Two objectives on a plane: the path of every rule.

    python docs/gallery/landscape.py [--quick]

Each objective is a pit, the left one ten times as deep, so that its gradient is ten times as long. No point is best for
both: the best compromises lie on the segment between the two centres. Where a rule ends on it is what it is for. The
front of these two is concave, so that fixed weights lead to one of the two ends, wherever they start.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import torch
from _common import save, start
from torch import Tensor

from gradweight import MultiObjectiveGradient, Rule, rules

LEFT, RIGHT = torch.tensor([-0.7, -0.7]), torch.tensor([0.7, 0.7])
STARTS = torch.tensor([[-1.2, 0.9], [0.2, 1.2], [1.3, -0.2]])


def objectives(point: Tensor) -> dict[str, Tensor]:
    """The two losses of Fonseca and Fleming (1995) in two dimensions; "left" is ten times as large."""
    left, right = (1 - torch.exp(-(point - centre).square().sum()) for centre in (LEFT, RIGHT))
    return {"left": 10 * left, "right": right}


# Every rule for two losses. Left out are those for a GAN, which want a discriminator's scores, and Krum and
# TrimmedMean, which want more losses; some need to know which of the losses is which.
RULES = {
    "fixed weights": [rules.Sum(), rules.Mean(), rules.Constant({"left": 1.0, "right": 10.0}), rules.Random()],
    "by the length of gradients": [
        rules.NormBalance(),
        rules.MetaBalance("left"),
        rules.VQGANWeight("left", "right"),
        rules.GradNorm(),
        rules.PINNAnnealing("left"),
        rules.PINNNormAnnealing("left"),
        rules.NTKWeight(),
        rules.Normalized(rules.Sum()),
        rules.DBMTL(),
    ],
    "by the values of the losses": [
        rules.Uncertainty(),
        rules.IMTLL(),
        rules.GeometricMean(),
        rules.FAMO(),
        rules.DWA(),
        rules.SoftAdapt(),
        rules.ReLoBRaLo(),
        rules.ResNorm(),
    ],
    "against conflict": [
        rules.UPGrad(),
        rules.DualProj(),
        rules.AngleBisector(),
        rules.NashMTL(),
        rules.FairGrad(alpha=0.5),
        rules.MGDA(),
        rules.ConFIG(),
        rules.MConFIG(),
        rules.IMTLG(),
        rules.AlignedMTL(),
        rules.CAGrad(c=0.5),
        rules.PCGrad(),
        rules.GradVac(),
        rules.GradDrop(),
        rules.PCD("left"),
        rules.OrthogonalProjection("left", when="conflict"),
    ],
    "for noise": [rules.CRMOGM(rules.AngleBisector()), rules.SDMGrad(), rules.MoDo(), rules.MoCo()],
    "a trade-off that you choose": [rules.SmoothTchebycheff(), rules.EPO(), rules.PBI(), rules.COSMOS()],
    "one after the other": [rules.Fade(rules.Sum(), rules.UPGrad(), steps=100)],
}


def path(rule: Rule, start: Tensor, steps: int) -> Tensor:
    """Where Adam goes along the rule's direction, (steps + 1, 2)."""
    point = start.clone().requires_grad_()
    opt = MultiObjectiveGradient(torch.optim.Adam([point], lr=0.02), rule)
    points = [start]
    for _ in range(steps):
        opt.zero_grad()
        opt.backward(objectives(point))
        opt.step()
        points.append(point.detach().clone())
    return torch.stack(points)


def main() -> None:
    options = start(__doc__)
    steps = 5 if options.quick else 200
    every = [(f"C{i}", rule) for i, some in enumerate(RULES.values()) for rule in some]

    side = torch.linspace(-1.6, 1.6, 81)
    total = torch.tensor([[float(sum(objectives(torch.stack([x, y])).values())) for x in side] for y in side])
    columns = 6
    lines = -(-len(every) // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(8.3, 0.7 + 1.42 * lines), sharex=True, sharey=True)
    for axis in grid.flat:
        axis.set_axis_off()
    for i, ((colour, rule), axis) in enumerate(zip(every, grid.flat, strict=False)):
        axis.set_axis_on()
        axis.contour(side, side, total, levels=12, cmap="Greys", linewidths=0.7, alpha=0.6)
        axis.plot([LEFT[0], RIGHT[0]], [LEFT[1], RIGHT[1]], color="#222222", lw=3, solid_capstyle="round")
        for first in STARTS:
            points = path(rule, first, steps)
            axis.plot(*points.T, color=colour)
            axis.plot(*points[0], "o", color="#222222", ms=3.5)
            axis.plot(*points[-1], "*", color="C0" if colour == "C1" else "C1", ms=9)
        axis.set_title(type(rule).__name__.replace("Projection", "-\nProjection"), fontsize=9, loc="center")
        axis.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1], aspect="equal")
        print(f"{i + 1} of {len(every)}: {type(rule).__name__}", flush=True)
    figure.suptitle("From the dots to the stars; on the thick line no objective can fall without the other rising")
    figure.supxlabel("first parameter")
    figure.supylabel("second parameter")
    save(figure, "landscape.png", options)


if __name__ == "__main__":
    main()
