"""The first table of docs/reproduced.md: every claim of the papers that was tried, at a glance, from the kept results.

    python -m benchmarks.studies.overview

writes it to the page, between the marks that name this script. Nothing is trained.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any

from benchmarks.folders import CITED, ROOT
from benchmarks.studies.intervals import mean_and_margin, paired_difference
from benchmarks.studies.ring.study_claims import ALPHA, AWD, CLAIMS, Claim
from benchmarks.studies.ring.study_report import insert, verdict

BEGIN = "<!-- benchmarks/studies/overview.py writes from here -->"
PAGE = ROOT / "docs" / "reproduced.md"

STUDIES = {"ring_study_half": "half width", "ring_study": "quarter width", "ring_study_fresh": "quarter, other seeds"}
"""The folders of the ring study that are cited, and what sets them apart."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    claim: str
    paper: str
    ours: str
    seeds: str
    interval: str
    verdict: str


def kept(folder: str, file: str) -> dict[str, Any]:
    """What a study has left."""
    found: dict[str, Any] = json.loads((CITED / folder / f"{file}.json").read_text())
    return found


def by_interval(mean: float, margin: float, *, more_is_better: bool) -> str:
    """What an interval of a difference says of a claim that the first is better."""
    if not abs(mean) > margin:  # also for a single seed, which has no interval
        return "no clear difference"
    return "**held**" if (mean > 0) == more_is_better else "**did not hold**: the opposite"


# ---- the ring


def wandering(folder: str, claim: str, paper: str) -> Row:
    """The main example in one of its settings."""
    summary = kept(folder, "ring")["summary (mean, margin of 95%)"]
    plain, weighted = summary["methods"]["plain"], summary["methods"]["aw"]
    difference = summary["minus plain"]["aw"]
    mean, margin = difference["modes"]
    ours, theirs, p = difference["all 8 modes"]
    return Row(
        claim,
        paper,
        f"modes covered: {weighted['modes'][0]:.1f} against {plain['modes'][0]:.1f}; all eight: "
        f"{weighted['all 8 modes']} against {plain['all 8 modes']} seeds",
        str(len(difference["seeds"])),
        f"{mean:+.1f} modes ({mean - margin:+.1f} to {mean + margin:+.1f}); all eight: only the one {ours}, only the "
        f"other {theirs}, p = {p:.2g}",
        by_interval(mean, margin, more_is_better=True),
    )


def at_the_modes() -> list[Row]:
    """The discriminator's mean logits at the modes, over the looks of a run."""
    found = kept("ring_logits", "logits")["verdict"]
    plain, weighted, difference = found["methods"]["plain"], found["methods"]["aw"], found["minus plain"]["aw"]
    claims = {
        "mean": ("aw, 5.3: the scores of real data are higher with the weights", "mean logit", ".2f"),
        "all above 0": ("the same: they are high for all eight modes", "looks with all eight logits above 0", ".1%"),
    }
    rows = []
    for name, (claim, what, form) in claims.items():
        mean, margin, higher, lower, p = difference[name]
        low, high = mean - margin, mean + margin
        seldom = name == "all above 0" and weighted[name][0] < 0.5
        rows.append(
            Row(
                claim,
                "one run of each",
                f"{what}: {weighted[name][0]:{form}} against {plain[name][0]:{form}}",
                str(len(difference["seeds"])),
                f"{mean:+{form}} ({low:+{form}} to {high:+{form}}); higher in {higher}, lower in {lower}, p = {p:.2g}",
                "**did not hold**: seldom with either" if seldom else by_interval(mean, margin, more_is_better=True),
            )
        )
    return rows


def of_study(claim: Claim) -> Row:
    """A claim about how often all modes or none are covered, in every setting in which it was tried."""
    ours, seeds, intervals, verdicts = [], [], [], []
    for folder, name in STUDIES.items():
        if not (CITED / folder / "study.json").exists():
            continue
        found = next(c["found"] for c in kept(folder, "study")["claims"] if c["says"] == claim.says)
        if not found["seeds"]:
            continue
        counts, n = found[claim.metric], found["seeds"]
        only, other, p = counts["only"], counts["only other"], counts["p"]
        difference, low, high = paired_difference(only, other, n)
        ours.append(f"{name}: only the one {only}, only the other {other} of {n}")
        seeds.append(str(n))
        intervals.append(f"{difference:+.0%} ({low:+.0%} to {high:+.0%}), p = {p:.2g}")
        verdicts.append(verdict(claim, found))
    says = claim.says.replace(f"{AWD}, section ", "aw, ").replace(f"{AWD}, appendix ", "aw, ")
    says = says.replace(ALPHA, "(alpha_D, alpha_G)")
    return Row(says, claim.paper, *("<br>".join(cells) for cells in (ours, seeds, intervals, verdicts)))


# ---- images


def of_images() -> list[Row]:
    """Angles, scores, thresholds and classifier-FID."""
    record, size = kept("angles", "angles"), kept("angles", "angles")["size"]
    seeds = str(size["seeds"])
    norms = ("batch norm", "no batch norm")
    plain, weighted = ([record["angles"][f"{norm}, {loss}"] for norm in norms] for loss in ("original", "aw"))
    between = [entry["real-fake"]["quartiles"] for entry in plain]
    against = [entry["real-combined"]["share beyond 90.1"] for entry in weighted]
    without = [entry["real-combined"]["share beyond 90.1"] for entry in plain]
    scores = [record["scores"][norm] for norm in norms]
    gaps = [(entry["aw"]["gap"], entry["original"]["gap"]) for entry in scores]
    wider = [
        mean_and_margin([a - b for a, b in zip(*(e[m]["gap of each seed"] for m in ("aw", "original")), strict=True)])
        for e in scores
    ]
    free = record["grid"][f"classifier_fid, {size['grid_steps']} steps"]["F of the cells, seeds taken out"]
    rows = [
        Row(
            "aw, 5.1: the gradients of real and fake loss conflict",
            "above 90 degrees, closer to 180",
            f"median {between[0][1]:.0f} degrees with batch norm, {between[1][1]:.0f} without",
            seeds,
            "quartiles {0:.0f} to {2:.0f}; {3:.0f} to {5:.0f}".format(*between[0], *between[1]),
            "**held**, not near 180",
        ),
        Row(
            "aw, 5.1: a weighted step goes against neither loss",
            "never",
            f"against the real loss in {against[0]:.0%} and {against[1]:.0%} of steps (plain {without[0]:.0%} and "
            f"{without[1]:.0%})",
            seeds,
            "steps of one run depend on each other: none given",
            "held in part; with a relative epsilon by construction",
        ),
        Row(
            "aw, 5.2: after a weighted step the gap between real and fake scores is wider",
            "1.41 against 1.26",
            "<br>".join(f"{norm}: {a:.2f} against {b:.2f}" for norm, (a, b) in zip(norms, gaps, strict=True)),
            seeds,
            "<br>".join(f"{mean:+.2f} ({mean - margin:+.2f} to {mean + margin:+.2f})" for mean, margin in wider),
            "<br>".join(by_interval(mean, margin, more_is_better=True) for mean, margin in wider),
        ),
        Row(
            "aw, B.1: the scores are not too sensitive to the two thresholds",
            "a grid, one run a cell",
            f"no effect seen in a grid of {len(size['alpha1']) * len(size['alpha2'])}",
            f"{size['grid_seeds']} a cell",
            f"F({free[1]}, {free[2]}) = {free[0]}, where 2.1 would show one",
            "**held**, as far as it can be seen",
        ),
    ]
    summary = kept("images", "images")["summary (mean, margin of 95%)"]
    for claim, paper, method in (
        ("aw, 4: a lower FID", "12.3 against 21.7 (SN-GAN, CIFAR-10)", "aw"),
        ("AdvAs, 5: a lower FID at the same number of steps", "by curves, WGAN-GP on MNIST", "AdvAs"),
    ):
        ours, intervals, verdicts = [], [], []
        for network, methods in summary.items():
            mean, margin = methods[method]["minus plain"]["classifier_fid"]
            ends = methods[method]["classifier_fid"][0], methods["plain"]["classifier_fid"][0]
            ours.append(f"{network}, classifier-FID: {ends[0]:.1f} against {ends[1]:.1f}")
            intervals.append(f"{mean:+.1f} ({mean - margin:+.1f} to {mean + margin:+.1f})")
            verdicts.append(by_interval(mean, margin, more_is_better=False))
        seeds = str(len(methods[method]["seeds"]))
        rows.append(Row(claim, paper, "<br>".join(ours), seeds, "<br>".join(intervals), "<br>".join(verdicts)))
    return rows


# ---- the table


def table() -> str:
    """In Markdown."""
    rows = [
        wandering(
            "ring",
            "aw, 5.3: adaptive weights settle on all modes where the plain GAN wanders",
            "one run of each",
        ),
        wandering("ring_stable", "the same where the plain GAN finds most modes by itself", "none"),
        *at_the_modes(),
        *(of_study(claim) for claim in CLAIMS if claim.paper != "none"),
        *of_images(),
    ]
    head = "| claim | the paper's number | ours | seeds | difference (95% interval) | verdict |"
    lines = [head, "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(astuple(row))} |" for row in rows)])


def main() -> None:
    PAGE.write_text(insert(PAGE.read_text(), table(), BEGIN))
    print(table())


if __name__ == "__main__":
    main()
