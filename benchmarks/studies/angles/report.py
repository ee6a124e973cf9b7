"""What came out of the studies of angles, scores and thresholds: the papers' figures, and numbers for each claim."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pictures import BLUE, GREEN, INK, RED, name_ends, panels, picture, save
from benchmarks.studies.angles.runs import COLUMNS, NORMS, RULES


@picture()
def draw_angles(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 4: the three angles at each iteration, with the original loss above and the aw-losses below."""
    figure, axes = panels(3, 2, 7.4, sharex=True, sharey=True)
    lines = {"real-fake": ("real and fake", BLUE), "real-combined": ("real and step", GREEN)}
    lines["fake-combined"] = ("fake and step", RED)
    titles = {"original": "original loss", "aw": "aw-loss", "aw-relative": "aw-loss, relative epsilon"}
    first = min(r["seed"] for r in rows)
    for (row, loss), (column, norm) in itertools.product(enumerate(titles), enumerate(NORMS)):
        axis = axes[row, column]
        own = [r for r in rows if (r["loss"], r["net"], r["seed"]) == (loss, norm, first)]
        ends = []
        for name, (label, colour) in lines.items():
            y = [r[name] if both(r) else math.nan for r in own]
            axis.plot([r["iteration"] for r in own], y, color=colour, linewidth=1.4)
            ends.append((label, next(v for v in reversed(y) if not math.isnan(v)), colour))
        axis.axhline(90, color=INK, linewidth=0.7, linestyle=":")
        axis.set(ylim=(0, 180), yticks=range(0, 181, 45), xlim=(1, len(own)))
        axis.set_title(f"{titles[loss]}; {norm}")
        name_ends(axis, ends)
    figure.supxlabel("iteration (gaps: a hinge loss without gradient)")
    figure.supylabel("angle (degrees)")
    save(figure, path)


@picture()
def draw_scores(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 5: scores before and after either step, and in the fourth row the gaps between real and fake."""
    figure, axes = panels(4, 2, 9.2, sharex=True, sharey="row")
    labels = []
    first = min(r["seed"] for r in rows)
    titles = {"before": "before training", "original": "after the original step", "aw": "after the aw step"}
    for j, norm in enumerate(NORMS):
        own = [r for r in rows if (r["net"], r["seed"]) == (norm, first)]
        x = [r["iteration"] for r in own]
        for i, (column, title) in enumerate(titles.items()):
            for kind, colour in (("real", BLUE), ("fake", RED)):
                axes[i, j].plot(x, [r[f"{kind} {column}"] for r in own], color=colour, linewidth=1)
            axes[i, j].set_title(f"{title}, {norm}")
            ends = [("D(x)", own[-1][f"real {column}"], BLUE), ("D(G(z))", own[-1][f"fake {column}"], RED)]
            labels.append((axes[i, j], ends))
        ends = []
        for column, colour in (("before", INK), ("original", RED), ("aw", BLUE), ("aw at its length", GREEN)):
            gap = [r[f"real {column}"] - r[f"fake {column}"] for r in own]
            axes[3, j].plot(x, gap, color=colour, linewidth=1)
            ends.append(("aw, rescaled" if column == "aw at its length" else column, gap[-1], colour))
        axes[3, j].set_title(f"gap D(x) - D(G(z)), {norm}")
        labels.append((axes[3, j], ends))
    for axis, ends in labels:  # last, when both axes of a row have their range
        name_ends(axis, ends)
    figure.supxlabel("iteration")
    figure.supylabel("mean logit")
    save(figure, path)


@picture()
def draw_grid(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 7: heat maps, classifier-score on the left and classifier-FID on the right, early above and late below."""
    steps, a1, a2 = (sorted({r[k] for r in rows}) for k in ("step", "alpha1", "alpha2"))
    figure, axes = panels(2, 2, 6.6)
    names = {
        "classifier_score": ("classifier-score (not IS)", "cividis"),
        "classifier_fid": ("classifier-FID (not FID)", "cividis_r"),
    }
    for (i, step), (j, (name, (title, colours))) in itertools.product(enumerate(steps), enumerate(names.items())):
        values = np.array([[mean_of(rows, name, step, x, y) for x in a1] for y in a2])
        axis = axes[i, j]
        axis.grid(False)
        axis.imshow(values, origin="lower", cmap=colours, aspect="auto")
        low, high = values.min(), values.max()
        for (y, x), value in np.ndenumerate(values):
            dark = (value - low) / max(high - low, 1e-12)
            dark = 1 - dark if name == "classifier_fid" else dark
            axis.text(x, y, f"{value:.3g}", ha="center", va="center", color="black" if dark > 0.55 else "white")
        axis.set_xticks(range(len(a1)), [f"{x:g}" for x in a1])
        axis.set_yticks(range(len(a2)), [f"{y:g}" for y in a2])
        axis.set_title(f"{title}, {step:,} steps")
        axis.set(xlabel=r"$\alpha_1$", ylabel=r"$\alpha_2$")
    figure.suptitle("Brighter is better", x=0.01, ha="left")
    save(figure, path)


def mean_of(rows: list[dict[str, Any]], name: str, step: int, alpha1: float, alpha2: float) -> float:
    key = (step, alpha1, alpha2)
    return statistics.fmean(r[name] for r in rows if (r["step"], r["alpha1"], r["alpha2"]) == key)


# ---- what was claimed, and what came out


def verdict_angles(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Quartiles of the angles and the share of iterations beyond 90 degrees, by network and loss, over all seeds.

    They are of the iterations at which both losses have a gradient. Where the other one has none, the step is along
    this one's, which is no conflict: the last share counts these iterations too.
    """
    found: dict[str, Any] = {}
    for norm, loss in itertools.product(NORMS, RULES):
        own = [r for r in rows if (r["net"], r["loss"]) == (norm, loss)]
        entry: dict[str, Any] = {}
        for name in ("real-fake", "real-combined", "fake-combined"):
            values = [r[name] for r in own if both(r)]
            entry[name] = {
                "mean degrees": round(statistics.fmean(values), 1),
                "quartiles": quartiles(values),
                # a right angle is what the rule aims at: not counted for its rounding
                "share beyond 90.1": round(statistics.fmean(v > 90.1 for v in values), 3),
                "share beyond 90.1 where this angle exists": round(
                    statistics.fmean(r[name] > 90.1 for r in own if not math.isnan(r[name])), 3
                ),
            }
        entry["norms of the gradients, quartiles"] = {
            k: quartiles([r[f"norm {k}"] for r in own]) for k in ("real", "fake")
        }
        entry["iterations with a zero gradient"] = sum(not both(r) for r in own)
        found[f"{norm}, {loss}"] = entry
    return found


def both(row: dict[str, Any]) -> bool:
    """Whether either loss had a gradient, without which there is no angle to speak of."""
    return not math.isnan(row["real-fake"])


def quartiles(values: list[float]) -> list[float]:
    return [round(float(q), 2) for q in np.quantile(values, [0.25, 0.5, 0.75])]


def verdict_scores(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Averages over the iterations of real score and gap, and in how many iterations aw was above the original."""
    found: dict[str, Any] = {}
    for norm in NORMS:
        own = [r for r in rows if r["net"] == norm]
        entry: dict[str, Any] = {}
        for column in COLUMNS:
            by_seed = [[r for r in own if r["seed"] == s] for s in sorted({r["seed"] for r in own})]
            real = [statistics.fmean(r[f"real {column}"] for r in part) for part in by_seed]
            gap = [statistics.fmean(r[f"real {column}"] - r[f"fake {column}"] for r in part) for part in by_seed]
            entry[column] = {
                "real score": round(statistics.fmean(real), 3),
                "of each seed": [round(x, 3) for x in real],
                "gap": round(statistics.fmean(gap), 3),
                "gap of each seed": [round(x, 3) for x in gap],
            }
        for column in ("aw", "aw at its length"):
            higher = statistics.fmean(r[f"real {column}"] > r["real original"] for r in own)
            wider = statistics.fmean(
                r[f"real {column}"] - r[f"fake {column}"] > r["real original"] - r["fake original"] for r in own
            )
            entry[column] |= {"real score above original's": round(higher, 3), "gap wider": round(wider, 3)}
        ratios = [x for r in own if not math.isnan(x := r["length of aw over original"])]
        entry["length of aw gradient over original, quartiles"] = quartiles(ratios)
        found[norm] = entry
    return found


def verdict_grid(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The spread over the grid beside the spread over seeds, and where (0.5, 0.75) stands."""
    found: dict[str, Any] = {}
    for step, name in itertools.product(sorted({r["step"] for r in rows}), ("classifier_score", "classifier_fid")):
        some = [r for r in rows if r["step"] == step]
        cells = sorted({(r["alpha1"], r["alpha2"]) for r in some})
        values = {c: [r[name] for r in some if (r["alpha1"], r["alpha2"]) == c] for c in cells}
        means = {c: statistics.fmean(v) for c, v in values.items()}
        better = sorted(means, key=lambda c: means[c], reverse=name == "classifier_score")
        within = [statistics.stdev(v) for v in values.values() if len(v) > 1]
        found[f"{name}, {step} steps"] = {
            "standard deviation of the cells' means": round(statistics.stdev(means.values()), 4),
            "standard deviation over seeds within a cell": round(statistics.fmean(within), 4) if within else None,
            "F of the cells, seeds taken out": f_of_rows(np.array(list(values.values()))),
            "best cell": [*better[0], round(means[better[0]], 4)],
            "worst cell": [*better[-1], round(means[better[-1]], 4)],
            "rank of (0.5, 0.75)": f"{better.index((0.5, 0.75)) + 1} of {len(better)}"
            if (0.5, 0.75) in means
            else None,
        }
    return found


def f_of_rows(table: np.ndarray) -> list[float] | None:
    """F of the rows beside the residual, columns (paired seeds) taken out, and its degrees of freedom."""
    rows, columns = table.shape
    effect, column = table.mean(1, keepdims=True) - table.mean(), table.mean(0, keepdims=True)
    residual, free = table - effect - column, (rows - 1) * (columns - 1)
    if free == 0 or not residual.any():
        return None
    ratio = (columns * np.square(effect).sum() / (rows - 1)) / (np.square(residual).sum() / free)
    return [round(float(ratio), 2), rows - 1, free]
