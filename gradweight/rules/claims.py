"""Every rule and what it claims: one list that the tests run through and the documentation prints.

The direction of a rule is ``d = sum_i w_i g_i``. A claim holds for every Gram matrix, degenerate ones included, up to
rounding; a rule that holds it in some cases only does not claim it.
"""

import sys
from pathlib import Path
from typing import Any

from .. import rules
from ..rule import Rule
from ._claim import NAMES, Claims
from ._claim_tables import tables, write_tables

__all__ = ["CLAIMS", "GAN_SCORES", "GROUPS", "NAMES", "Claims", "claims_table"]

GAN_SCORES = {"real_score": 0.6, "fake_score": 0.3}
"""Mean scores for which `AdaptiveWeights` favours neither of its losses."""

WORDS: dict[str, dict[str, Any]] = {
    "no-conflict": {"non_conflicting": True},
    "unit-length": {"degree": 0},
    "scale-free": {"invariant_to_loss_scale": True},
    "pareto": {"vanishes_only_where_stationary": True},
    "linear": {"linear_under_scaling": True},
    "ordered": {"permutation_equivariant": False},
    "jumps": {"differentiable": False},
    "blind": {"reads_gradients": False},
}
"""The words of the list below, each for a field of `Claims` whose value is not the default."""


def _claims(rule: Rule, words: str, use: str, **fields: Any) -> Claims:
    for word in words.split():
        fields |= WORDS[word]
    return Claims(rule, use, **fields)


GROUPS: dict[str, tuple[Claims, ...]] = {
    "A baseline": (
        _claims(rules.Sum(), "pareto linear blind", "a first baseline: what plain training does"),
        _claims(
            rules.Mean(), "pareto linear blind", "the same with a step that does not grow with the number of losses"
        ),
        _claims(
            rules.Constant({name: 1 + i / 8 for i, name in enumerate(NAMES)}),
            "ordered pareto linear blind",
            "weights that you have tuned, and want to keep",
        ),
        _claims(rules.Random(), "ordered pareto linear blind", "a litmus test: what does no better has learnt nothing"),
    ),
    "No loss may rise": (
        _claims(
            rules.UPGrad(),
            "no-conflict pareto linear",
            "any losses that must not rise, each with a say in proportion to its gradient",
        ),
        _claims(rules.DualProj(), "no-conflict pareto", "the mean loss, as long as no loss rises"),
        _claims(
            rules.AngleBisector(),
            "no-conflict unit-length scale-free",
            "adversarial losses, or any few losses that must all fall at one rate, whatever their scales",
        ),
        _claims(
            rules.NashMTL(),
            "no-conflict unit-length scale-free pareto",
            "tasks of very different scales that must all improve",
        ),
        _claims(
            rules.FairGrad(alpha=0.5),
            "no-conflict pareto",
            "a compromise between all tasks improving and the most improvement in sum",
            degree=1 / 3,
            setting="(alpha=0.5)",
        ),
        _claims(
            rules.MGDA(),
            "no-conflict pareto",
            "losses that are all nearly solved, or finding out whether all can still fall",
        ),
    ),
    "One loss comes first": (
        _claims(
            rules.PCD("a"),
            "scale-free ordered pareto",
            "one primary loss, and a guaranteed share of progress for each of the others",
            needs=("a",),
        ),
        _claims(
            rules.OrthogonalProjection(favour="a"),
            "no-conflict unit-length scale-free ordered",
            "one loss may be followed only as far as it leaves the others unchanged",
            needs=("a",),
        ),
        _claims(
            rules.OrthogonalProjection(favour="a", when="conflict"),
            "no-conflict unit-length scale-free ordered pareto",
            "one main loss, and auxiliary ones that must not rise",
            setting='(when="conflict")',
            needs=("a",),
        ),
        _claims(
            rules.MetaBalance("a"),
            "ordered pareto",
            "one task that counts, and auxiliary ones whose gradients are of other sizes",
        ),
        _claims(
            rules.VQGANWeight("a", "b"),
            "ordered pareto",
            "a reconstruction and an adversarial loss in one generator",
            losses=(2, 16),
        ),
    ),
    "Losses of different scales, by their gradients": (
        _claims(
            rules.NormBalance(),
            "unit-length scale-free pareto",
            "a codec or vocoder with many losses: say what share each one has",
        ),
        _claims(rules.GradNorm(), "scale-free pareto", "tasks that should train at one pace, whatever their scales"),
        _claims(
            rules.PINNAnnealing("a"),
            "ordered pareto",
            "a physics-informed network whose boundary gradients are too small, as published",
        ),
        _claims(
            rules.PINNNormAnnealing("a"),
            "ordered pareto",
            "a physics-informed network whose boundary gradients are too small",
        ),
        _claims(
            rules.NTKWeight(),
            "pareto",
            "a physics-informed network whose losses converge at different speeds, by their kernels",
        ),
        _claims(
            rules.IMTLG(),
            "",
            "equal progress on a few tasks; for more than two prefer AngleBisector or ConFIG, which cannot turn round",
        ),
        _claims(rules.DBMTL(), "scale-free pareto", "tasks of different scales, by averages of gradients", degree=None),
        _claims(
            rules.DBMTL(beta=0.0), "unit-length scale-free pareto", "the same without averages", setting="(beta=0)"
        ),
        _claims(rules.AlignedMTL(), "pareto", "tasks whose gradients are nearly parallel or of very different norms"),
        _claims(
            rules.ConFIG(),
            "",
            "a physics-informed network: losses of very different scales, the step as long as they agree",
        ),
        _claims(
            rules.MConFIG(),
            "",
            "ConFIG for one backward pass a step: averages of the losses' gradients, renewed one after the other",
        ),
    ),
    "Losses of different scales or speeds, by their values, for one backward": (
        _claims(rules.GeometricMean(), "scale-free pareto blind", "losses of different scales, with nothing to tune"),
        _claims(
            rules.Uncertainty(),
            "pareto blind",
            "regression losses of different noise, from their values alone",
            degree=None,
        ),
        _claims(rules.IMTLL(), "pareto blind", "losses of different scales, from their values alone", degree=None),
        _claims(
            rules.FAMO(),
            "scale-free pareto blind",
            "many tasks that should fall at one relative rate, from their values alone",
        ),
        _claims(rules.DWA(), "pareto blind", "supervised tasks over many epochs, from their values alone"),
        _claims(rules.ResNorm(), "scale-free pareto blind", "GradNorm's idea, from the values of the losses alone"),
        _claims(
            rules.SoftAdapt(),
            "pareto blind",
            "losses that fall at different rates from step to step, from their values alone",
            degree=None,
        ),
        _claims(
            rules.SoftAdapt(beta=1.0, rates="ratios"),
            "pareto linear blind",
            "the same by relative rates, whatever the losses' scales",
            setting='(rates="ratios")',
        ),
        _claims(
            rules.ReLoBRaLo(),
            "pareto linear blind",
            "a physics-informed network with losses that fall at different rates, from their values alone",
        ),
    ),
    "A trade-off that you choose": (
        _claims(
            rules.EPO(),
            "pareto",
            "a chosen trade-off by the losses' proportions, reached exactly",
        ),
        _claims(
            rules.SmoothTchebycheff(), "pareto blind", "a chosen trade-off, one on a concave front too", degree=None
        ),
        _claims(
            rules.PBI(),
            "blind",
            "a chosen trade-off by the losses' proportions, from their values alone",
        ),
        _claims(
            rules.COSMOS(),
            "blind",
            "the same as a weighted sum that is drawn to those proportions",
            degree=None,
        ),
    ),
    "Compromises between tasks, as published": (
        _claims(rules.CAGrad(), "pareto", "the mean loss, with an eye on the loss that is worst off"),
        _claims(rules.PCGrad(), "ordered pareto linear", "a few tasks that conflict now and then"),
        _claims(
            rules.PCGrad(),
            "no-conflict pareto linear",
            "the same for two losses, where the order makes no difference",
            setting="(two losses)",
            losses=(1, 2),
        ),
        _claims(
            rules.GradVac(),
            "ordered pareto linear",
            "many related tasks (languages, say) whose gradients usually agree",
        ),
        _claims(rules.GradDrop(), "pareto jumps", "many tasks, and noise to escape from compromises between them"),
    ),
    "Small batches, and gradients that may be corrupt": (
        _claims(rules.SDMGrad(), "ordered pareto", "small batches, and the mean loss matters most"),
        _claims(rules.MoDo(), "pareto", "small batches: MGDA's weights, approached over many steps", degree=None),
        _claims(rules.MoCo(), "pareto", "the same by averages of gradients, which correct their bias", degree=None),
        _claims(rules.Krum(), "pareto", "gradients of several sources, a few of which may be corrupt", losses=(4, 16)),
        _claims(rules.TrimmedMean(), "", "the same, coordinate by coordinate", losses=(3, 16)),
    ),
    "Round another rule": (
        _claims(
            rules.CRMOGM(rules.AngleBisector()),
            "unit-length scale-free",
            "small batches: any other rule, its weights averaged over steps",
        ),
        _claims(
            rules.Normalized(rules.UPGrad()),
            "no-conflict unit-length scale-free pareto",
            "any rule, where the scales of the losses are not to count",
        ),
        _claims(
            rules.Normalized(rules.UPGrad(), by="loss"),
            "no-conflict scale-free pareto",
            "the same by relative progress: the gradients of the losses' logarithms",
            setting='(by="loss")',
            degree=0,
        ),
        _claims(
            rules.Fade(rules.Sum(), rules.UPGrad(), steps=20),
            "pareto linear",
            "a schedule: the weights of one rule at first, of another in the end",
        ),
    ),
    "A GAN": (
        _claims(
            rules.AdaptiveWeights(real="a", fake="b"),
            "ordered",
            "a GAN's discriminator, guided by its own scores",
            degree=None,
            losses=(2, 16),
            signals=GAN_SCORES,
        ),
        _claims(
            rules.AdaptiveWeights(real="a", fake="b", epsilon=0.0),
            "no-conflict unit-length scale-free ordered pareto",
            "the same without the paper's constant, which lets gradients conflict",
            setting="(epsilon=0)",
            losses=(2, 2),
            signals=GAN_SCORES,
        ),
        _claims(rules.AdvAs(penalty="a"), "ordered pareto", "a GAN's generator with the AdvAs penalty"),
    ),
}
"""The rules of `gradweight.rules`, each with what it claims, by what one may want of them."""

CLAIMS: tuple[Claims, ...] = tuple(claims for group in GROUPS.values() for claims in group)
"""All of them."""


def claims_table() -> str:
    """The list as Markdown tables, one for each group, as they stand in the documentation."""
    return tables(GROUPS)


if __name__ == "__main__":
    for page in sys.argv[1:]:
        write_tables(Path(page), claims_table())
