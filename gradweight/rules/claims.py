"""Every rule and what it claims: one list that the tests run through and the documentation prints.

The direction of a rule is ``d = sum_i w_i g_i``. A claim holds for every Gram matrix, degenerate ones included, up to
rounding; a rule that holds it in some cases only does not claim it.
"""

from __future__ import annotations

from collections.abc import Callable

from . import (
    CRMOGM,
    DWA,
    FAMO,
    IMTLG,
    IMTLL,
    MGDA,
    AdaptiveWeights,
    AdvAs,
    AlignedMTL,
    AngleBisector,
    CAGrad,
    ConFIG,
    Constant,
    DualProj,
    FairGrad,
    GeometricMean,
    GradDrop,
    GradNorm,
    GradVac,
    Krum,
    Mean,
    MoDo,
    NashMTL,
    NormBalance,
    OrthogonalProjection,
    PCGrad,
    PINNAnnealing,
    PINNNormAnnealing,
    Random,
    SDMGrad,
    SmoothTchebycheff,
    Sum,
    TrimmedMean,
    Uncertainty,
    UPGrad,
    VQGANWeight,
)
from ._claim import NAMES, Claims

__all__ = ["CLAIMS", "GAN_SCORES", "NAMES", "Claims", "claims_table"]

GAN_SCORES = {"real_score": 0.6, "fake_score": 0.3}
"""Mean scores for which `AdaptiveWeights` favours neither of its losses."""

CLAIMS: tuple[Claims, ...] = (
    Claims(
        Sum(),
        "a first baseline: what plain training does",
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
        reads_gradients=False,
    ),
    Claims(
        Mean(),
        "the same with a step that does not grow with the number of losses",
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
        reads_gradients=False,
    ),
    Claims(
        Constant({name: 1 + i / 8 for i, name in enumerate(NAMES)}),
        "weights that you have tuned, and want to keep",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
        reads_gradients=False,
    ),
    Claims(
        AngleBisector(),
        "adversarial losses, or any few losses that must all fall at one rate, whatever their scales",
        non_conflicting=True,
        degree=0,
        invariant_to_loss_scale=True,
    ),
    Claims(
        OrthogonalProjection(favour="a"),
        "one loss may be followed only as far as it leaves the others unchanged",
        non_conflicting=True,
        degree=0,
        invariant_to_loss_scale=True,
        permutation_equivariant=False,
        needs=("a",),
    ),
    Claims(
        OrthogonalProjection(favour="a", when="conflict"),
        "one main loss, and auxiliary ones that must not rise",
        setting='(when="conflict")',
        non_conflicting=True,
        degree=0,
        invariant_to_loss_scale=True,
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
        needs=("a",),
    ),
    Claims(
        AdaptiveWeights(real="a", fake="b"),
        "a GAN's discriminator, guided by its own scores",
        degree=None,
        permutation_equivariant=False,
        losses=(2, 16),
        signals=GAN_SCORES,
    ),
    Claims(
        AdaptiveWeights(real="a", fake="b", epsilon=0.0),
        "the same without the paper's constant, which lets gradients conflict",
        setting="(epsilon=0)",
        non_conflicting=True,
        degree=0,
        invariant_to_loss_scale=True,
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
        losses=(2, 2),
        signals=GAN_SCORES,
    ),
    Claims(
        AdvAs(penalty="a"),
        "a GAN's generator with the AdvAs penalty",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        Random(),
        "a litmus test: what does no better has learnt nothing",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
        reads_gradients=False,
    ),
    Claims(
        PCGrad(),
        "a few tasks that conflict now and then",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
    ),
    Claims(
        PCGrad(),
        "the same for two losses, where the order makes no difference",
        setting="(two losses)",
        non_conflicting=True,
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
        losses=(1, 2),
    ),
    Claims(
        GradVac(),
        "many related tasks (languages, say) whose gradients usually agree",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
    ),
    Claims(
        CRMOGM(AngleBisector()),
        "small batches: any other rule, its weights averaged over steps",
        degree=0,
        invariant_to_loss_scale=True,
    ),
    Claims(
        Krum(),
        "gradients of several sources, a few of which may be corrupt",
        vanishes_only_where_stationary=True,
        losses=(4, 16),
    ),
    Claims(
        TrimmedMean(),
        "the same, coordinate by coordinate",
        losses=(3, 16),
    ),
    Claims(
        GradDrop(),
        "many tasks, and noise to escape from compromises between them",
        vanishes_only_where_stationary=True,
        differentiable=False,
    ),
    Claims(
        NormBalance(),
        "a codec or vocoder with many losses: say what share each one has",
        degree=0,
        invariant_to_loss_scale=True,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        VQGANWeight("a", "b"),
        "a reconstruction and an adversarial loss in one generator",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        PINNAnnealing("a"),
        "a physics-informed network whose boundary gradients are too small, as published",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        PINNNormAnnealing("a"),
        "a physics-informed network whose boundary gradients are too small",
        permutation_equivariant=False,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        GradNorm(),
        "tasks that should train at one pace, whatever their scales",
        invariant_to_loss_scale=True,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        Uncertainty(),
        "regression losses of different noise, from their values alone",
        degree=None,
        vanishes_only_where_stationary=True,
        reads_gradients=False,
    ),
    Claims(
        IMTLL(),
        "losses of different scales, from their values alone",
        degree=None,
        vanishes_only_where_stationary=True,
        reads_gradients=False,
    ),
    Claims(
        DWA(),
        "supervised tasks over many epochs, from their values alone",
        vanishes_only_where_stationary=True,
        reads_gradients=False,
    ),
    Claims(
        FAMO(),
        "many tasks that should fall at one relative rate, from their values alone",
        invariant_to_loss_scale=True,
        vanishes_only_where_stationary=True,
        reads_gradients=False,
    ),
    Claims(
        SmoothTchebycheff(),
        "a chosen trade-off, one on a concave front too",
        degree=None,
        vanishes_only_where_stationary=True,
        reads_gradients=False,
    ),
    Claims(
        GeometricMean(),
        "losses of different scales, with nothing to tune",
        invariant_to_loss_scale=True,
        vanishes_only_where_stationary=True,
        reads_gradients=False,
    ),
    Claims(
        UPGrad(),
        "any losses that must not rise, each with a say in proportion to its gradient",
        non_conflicting=True,
        vanishes_only_where_stationary=True,
        linear_under_scaling=True,
    ),
    Claims(
        DualProj(),
        "the mean loss, as long as no loss rises",
        non_conflicting=True,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        MGDA(),
        "losses that are all nearly solved, or finding out whether all can still fall",
        non_conflicting=True,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        CAGrad(),
        "the mean loss, with an eye on the loss that is worst off",
        vanishes_only_where_stationary=True,
    ),
    Claims(
        NashMTL(),
        "tasks of very different scales that must all improve",
        non_conflicting=True,
        degree=0,
        invariant_to_loss_scale=True,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        FairGrad(alpha=0.5),
        "a compromise between all tasks improving and the most improvement in sum",
        setting="(alpha=0.5)",
        non_conflicting=True,
        degree=1 / 3,
        vanishes_only_where_stationary=True,
    ),
    Claims(
        ConFIG(),
        "a physics-informed network: losses of very different scales, the step as long as they agree",
    ),
    Claims(
        IMTLG(),
        "equal progress on a few tasks; for more than two prefer AngleBisector or ConFIG, which cannot turn round",
    ),
    Claims(
        AlignedMTL(),
        "tasks whose gradients are nearly parallel or of very different norms",
        vanishes_only_where_stationary=True,
    ),
    Claims(
        SDMGrad(),
        "small batches, and the mean loss matters most",
        vanishes_only_where_stationary=True,
    ),
    Claims(
        MoDo(),
        "small batches: MGDA's weights, approached over many steps",
        degree=None,
        vanishes_only_where_stationary=True,
    ),
)
"""The rules of `gradweight.rules`, each with what it claims."""


def claims_table() -> str:
    """The list as a Markdown table, as it stands in the documentation."""
    columns: dict[str, Callable[[Claims], str]] = {
        "rule": lambda c: f"`{c.name}`",
        "computed from": lambda c: c.kind,
        "no conflict": lambda c: _mark(c.non_conflicting),
        "step is as long as": lambda c: _growth(c.degree),
        "ignores scale of a loss": lambda c: _mark(c.invariant_to_loss_scale),
        "ignores order": lambda c: _mark(c.permutation_equivariant),
        "stops only at Pareto points": lambda c: _mark(c.vanishes_only_where_stationary),
        "linear": lambda c: _mark(c.linear_under_scaling),
        "differentiable": lambda c: _mark(c.differentiable),
        "losses": lambda c: f"{c.losses[0]} to {c.losses[1]}",
        "for": lambda c: c.use,
    }
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(column(claims) for column in columns.values()) + " |" for claims in CLAIMS]
    return "\n".join(lines)


def _growth(degree: float | None) -> str:
    if degree is None:
        return ""
    return {0.0: "always", 1.0: "the gradients"}.get(degree, f"the gradients to the {degree:.2g}")


def _mark(claimed: bool) -> str:
    return "yes" if claimed else ""


if __name__ == "__main__":
    print(claims_table())
