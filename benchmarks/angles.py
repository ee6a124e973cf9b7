"""The studies of gradients and scores: angles, scores after one step, and the grid of the two thresholds.

    python benchmarks/angles.py                # everything, about fifteen minutes of one core
    python benchmarks/angles.py --parts angles

Of Adaptive Weighted Discriminator (CVPR 2021, arXiv:2012.03149): sections 5.1 and 5.2 and appendix B.1, on DCGAN with
Fashion-MNIST for CIFAR-10, with batch norm in the discriminator and without. Writes, to benchmarks/results/angles/, a
CSV and a figure for each part as it is done, drawn as the paper draws it, and angles.json with what came out and the
machine record. Parts that are there already are not run again.

**angles** (5.1, figure 4). Claim: in the first epoch the gradients of the real and of the fake loss make an obtuse
angle at every iteration, close to 180 degrees; the sum often points against one of the two; with the weights neither
happens. The hinge loss, Adam, batches of 64. The paper shows one run of 50 iterations and does not say which; here are
the first 50 of several seeds. Beside the weights as published there are those with the relative epsilon: the published
0.05 is added to weights of the size of 1/|g|, and where gradients are long, it alone decides the direction.

**scores** (5.2, figure 5). Claim: of one step from the same state on the same batch, the weighted one leaves higher
real scores (0.92 against 0.25 on average over the epoch) and a wider gap between real and fake scores (1.41 against
1.26). Scores are mean logits of the batch that was trained on. The run goes on with the plain step, and either step
starts from the plain run's state of Adam. That holds running means of squared *plain* gradients, while the weighted
gradient has a length of its own: weights of the size of 1/|g| make a longer or a shorter step, not only another
direction. So there is a third step, along the weighted gradient rescaled to the length of the plain one: what is
left is due to the direction.

**grid** (appendix B, figure 7). Claim: the score is not too sensitive to alpha1 and alpha2, with a good region around
(0.5, 0.75). The paper has IS and FID of AutoGAN after epochs 1 and 5; here are classifier-score and classifier-FID
(`classifier.py`: not IS, not FID) of a narrow DCGAN after a fifth of the steps and after all, with the spread over
seeds beside the spread over the grid.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from gradweight import MultiObjectiveGradient
from gradweight.gan import Hinge, probability_scores
from gradweight.rules import AdaptiveWeights, Sum

if __package__:
    from .classifier import Judge, trained
    from .datasets import DATASETS, Images, to_unit
    from .image_models import NOISE, SETTINGS, dcgan, dcgan_generator
    from .images import sample, train
    from .record import machine_record
else:
    from classifier import Judge, trained
    from datasets import DATASETS, Images, to_unit
    from image_models import NOISE, SETTINGS, dcgan, dcgan_generator
    from images import sample, train
    from record import machine_record

matplotlib.use("Agg")
import matplotlib.pyplot as plt

INK, GREY, BLUE, ORANGE, GREEN = "#333333", "#bbbbbb", "#0072b2", "#d55e00", "#009e73"
STYLE = {"font.size": 10, "font.family": "DejaVu Sans", "axes.linewidth": 0.6, "axes.edgecolor": GREY}
NORMS = {"batch norm": True, "no batch norm": False}
RULES: dict[str, AdaptiveWeights | None] = {
    "original": None,
    "aw": AdaptiveWeights(),
    "aw-relative": AdaptiveWeights(epsilon_mode="relative"),
}
HINGE = Hinge()


@dataclass(frozen=True)
class Size:
    """How much is run."""

    width: int
    iterations: int
    score_iterations: int
    seeds: int
    grid_width: int
    grid_steps: int
    grid_seeds: int
    judged: int
    alpha1: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6)
    alpha2: tuple[float, ...] = (0.6, 0.75, 0.9)


FULL = Size(32, 50, 60, 3, 8, 400, 2, 2000)
QUICK = Size(4, 4, 3, 1, 4, 5, 2, 32, (0.5,), (0.6, 0.75))


# ---- one iteration of training, by hand: the studies look in between


class Pair:
    """DCGAN with its optimizers, the data and the noise of one seed."""

    def __init__(self, images: Images, width: int, batch_norm: bool, seed: int, rule: AdaptiveWeights | None) -> None:
        torch.manual_seed(seed)
        self.generator = dcgan_generator(width, images.channels)
        self.discriminator = dcgan(width, images.channels, batch_norm=batch_norm)
        self.data, self.random = images.samples, torch.Generator().manual_seed(seed)
        adam = {"lr": 2e-4, "betas": (0.5, 0.999), "fused": True}
        self.d_base = torch.optim.Adam(self.discriminator.parameters(), **adam)
        self.d_opt = MultiObjectiveGradient(self.d_base, rule or Total())
        self.g_opt = torch.optim.Adam(self.generator.parameters(), **adam)

    def noise(self) -> Tensor:
        """A batch of noise."""
        return torch.randn(64, NOISE, generator=self.random)

    def batch(self) -> tuple[Tensor, Tensor]:
        """A real and a fake batch."""
        real = to_unit(self.data[torch.randint(len(self.data), (64,), generator=self.random)])
        with torch.no_grad():
            return real, self.generator(self.noise())

    def generator_step(self) -> None:
        """One step of the generator."""
        self.g_opt.zero_grad()
        loss = sum(HINGE.generator(self.discriminator(self.generator(self.noise()))).values())
        loss.backward(inputs=list(self.generator.parameters()))
        self.g_opt.step()


class Total:
    """The plain sum, taking the signals that `AdaptiveWeights` declares, so that either can be given them."""

    def __call__(self, gram: Tensor, /, *, real_score: Tensor, fake_score: Tensor) -> Tensor:
        """Weight 1 for either."""
        return Sum()(gram)


def backward(d_opt: MultiObjectiveGradient, discriminator: nn.Module, real: Tensor, fake: Tensor) -> Any:
    """The gradient of one discriminator step; returns the `Combination`."""
    d_opt.zero_grad()
    logits = discriminator(real), discriminator(fake)
    return d_opt.backward(HINGE.discriminator(*logits), **probability_scores(*logits))


# ---- section 5.1


def angles(images: Images, size: Size) -> Iterator[dict[str, Any]]:
    """Angles between real, fake and combined gradients at each iteration."""
    for norm, loss, seed in itertools.product(NORMS, RULES, range(size.seeds)):
        pair = Pair(images, size.width, NORMS[norm], seed, RULES[loss])
        for iteration in range(1, size.iterations + 1):
            seen = backward(pair.d_opt, pair.discriminator, *pair.batch())
            pair.d_opt.step()
            pair.generator_step()
            between = degrees(seen.gram, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
            yield {
                "net": norm,
                "loss": loss,
                "seed": seed,
                "iteration": iteration,
                "real-fake": between,
                "real-combined": degrees(seen.gram, torch.tensor([1.0, 0.0]), seen.weights),
                "fake-combined": degrees(seen.gram, torch.tensor([0.0, 1.0]), seen.weights),
                "norm real": float(seen.norms[0]),
                "norm fake": float(seen.norms[1]),
            }


def degrees(gram: Tensor, a: Tensor, b: Tensor) -> float:
    """The angle between two combinations of the gradients; NaN if one is zero."""
    gram, a, b = gram.double(), a.double(), b.double()
    lengths = ((a @ gram @ a) * (b @ gram @ b)).clamp(min=0).sqrt()
    return float(torch.rad2deg(torch.acos((a @ gram @ b / lengths).clamp(-1, 1))))


def draw_angles(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 4: the three angles at each iteration, with the original loss above and the aw-losses below."""
    figure, axes = plt.subplots(3, 2, figsize=(10, 8), layout="constrained", sharex=True, sharey=True)
    lines = {"real-fake": ("real and fake", BLUE), "real-combined": ("real and step", GREEN)}
    lines["fake-combined"] = ("fake and step", ORANGE)
    titles = {"original": "original loss", "aw": "aw-loss", "aw-relative": "aw-loss, relative epsilon"}
    for (row, loss), (column, norm) in itertools.product(enumerate(titles), enumerate(NORMS)):
        axis = axes[row, column]
        own = [r for r in rows if (r["loss"], r["net"], r["seed"]) == (loss, norm, 0)]
        ends = []
        for name, (label, colour) in lines.items():
            y = [r[name] for r in own]
            axis.plot([r["iteration"] for r in own], y, color=colour, linewidth=1.4)
            ends.append((label, next(v for v in reversed(y) if not math.isnan(v)), colour))
        axis.axhline(90, color=INK, linewidth=0.7, linestyle=":")
        axis.set(ylim=(0, 180), yticks=range(0, 181, 45), xlim=(1, len(own)))
        axis.set_title(f"{titles[loss]}; {norm}", loc="left", fontsize=11)
        tidy(axis)
        beside(axis, ends)
    for axis in axes[-1]:
        axis.set_xlabel("iteration (gaps: a hinge loss without gradient)")
    for axis in axes[:, 0]:
        axis.set_ylabel("angle (degrees)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ---- section 5.2

COLUMNS = ("before", "original", "aw", "aw at its length")


def scores(images: Images, size: Size) -> Iterator[dict[str, Any]]:
    """Mean logits on the batch before a step and after each kind of step; the run goes on with the plain one."""
    for norm, seed in itertools.product(NORMS, range(size.seeds)):
        pair = Pair(images, size.width, NORMS[norm], seed, rule=None)
        aw = MultiObjectiveGradient(pair.d_base, AdaptiveWeights())
        for iteration in range(1, size.score_iterations + 1):
            real, fake = pair.batch()
            row: dict[str, Any] = {"net": norm, "seed": seed, "iteration": iteration}
            saved = copy.deepcopy(pair.discriminator.state_dict()), copy.deepcopy(pair.d_base.state_dict())
            put(row, "before", pair.discriminator, real, fake)
            backward(pair.d_opt, pair.discriminator, real, fake)
            plain = length(pair.discriminator)
            for column in ("aw", "aw at its length", "original"):
                pair.discriminator.load_state_dict(saved[0])
                pair.d_base.load_state_dict(copy.deepcopy(saved[1]))
                opt = pair.d_opt if column == "original" else aw
                backward(opt, pair.discriminator, real, fake)
                if column == "aw":
                    row["length of aw over original"] = float(length(pair.discriminator) / plain)  # NaN: both are zero
                if column == "aw at its length":
                    with torch.no_grad():
                        own = length(pair.discriminator)
                        scale = torch.where(own > 0, plain / own, 1.0)  # both hinge losses may be without gradient
                        for p in pair.discriminator.parameters():
                            p.grad *= scale
                opt.step()
                put(row, column, pair.discriminator, real, fake)
            pair.generator_step()
            yield row


def length(net: nn.Module) -> Tensor:
    """Of the gradient."""
    return torch.stack([p.grad.norm() for p in net.parameters()]).norm()


@torch.no_grad()
def put(row: dict[str, Any], column: str, discriminator: nn.Module, real: Tensor, fake: Tensor) -> None:
    """The two mean logits, with the statistics of the batch as in training but the running ones left alone."""
    buffers = {name: b.clone() for name, b in discriminator.named_buffers()}
    row[f"real {column}"], row[f"fake {column}"] = float(discriminator(real).mean()), float(discriminator(fake).mean())
    for name, b in discriminator.named_buffers():
        b.copy_(buffers[name])


def draw_scores(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 5: scores before and after either step, and in the fourth row the gaps between real and fake."""
    figure, axes = plt.subplots(4, 2, figsize=(10, 10), layout="constrained", sharex=True, sharey="row")
    labels = []
    titles = {"before": "before training", "original": "after the original step", "aw": "after the aw step"}
    for j, norm in enumerate(NORMS):
        own = [r for r in rows if (r["net"], r["seed"]) == (norm, 0)]
        x = [r["iteration"] for r in own]
        for i, (column, title) in enumerate(titles.items()):
            for kind, colour in (("real", BLUE), ("fake", ORANGE)):
                axes[i, j].plot(x, [r[f"{kind} {column}"] for r in own], color=colour, linewidth=1)
            axes[i, j].set_title(f"{title}, {norm}", loc="left", fontsize=11)
            ends = [("D(x)", own[-1][f"real {column}"], BLUE), ("D(G(z))", own[-1][f"fake {column}"], ORANGE)]
            labels.append((axes[i, j], ends))
        ends = []
        for column, colour in (("before", INK), ("original", ORANGE), ("aw", BLUE), ("aw at its length", GREEN)):
            gap = [r[f"real {column}"] - r[f"fake {column}"] for r in own]
            axes[3, j].plot(x, gap, color=colour, linewidth=1)
            ends.append((column, gap[-1], colour))
        axes[3, j].set_title(f"gap D(x) - D(G(z)), {norm}", loc="left", fontsize=11)
        labels.append((axes[3, j], ends))
        axes[3, j].set_xlabel("iteration")
    for axis in axes.flat:
        tidy(axis)
    for axis, ends in labels:  # last, when both axes of a row have their range
        beside(axis, ends)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean logit")
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ---- appendix B


def grid(images: Images, size: Size, judge: Judge) -> Iterator[dict[str, Any]]:
    """classifier-FID and classifier-score for each pair of thresholds, early and late."""
    setting = replace(SETTINGS["dcgan"], loss=HINGE, rate=1e-3)
    early = max(size.grid_steps // 5, 1)
    noise = torch.randn(size.judged, NOISE, generator=torch.Generator().manual_seed(10**6))
    for seed, alpha1, alpha2 in itertools.product(range(size.grid_seeds), size.alpha1, size.alpha2):
        torch.manual_seed(seed)
        nets = dcgan_generator(size.grid_width, images.channels), dcgan(size.grid_width, images.channels)
        rule = AdaptiveWeights(alpha1=alpha1, alpha2=alpha2)
        for step in train(nets, setting, (rule, False), images.samples, size.grid_steps, 32, seed):
            if step in (early, size.grid_steps):
                metrics = judge(sample(nets[0], noise))
                kept = {name: metrics[name] for name in ("classifier_score", "classifier_fid")}
                yield {"alpha1": alpha1, "alpha2": alpha2, "seed": seed, "step": step} | kept


def draw_grid(rows: list[dict[str, Any]], path: Path) -> None:
    """Figure 7: heat maps, classifier-score on the left and classifier-FID on the right, early above and late below."""
    steps, a1, a2 = (sorted({r[k] for r in rows}) for k in ("step", "alpha1", "alpha2"))
    figure, axes = plt.subplots(2, 2, figsize=(8, 6.5), layout="constrained")
    names = {
        "classifier_score": ("classifier-score (not IS)", "cividis"),
        "classifier_fid": ("classifier-FID (not FID)", "cividis_r"),
    }
    for (i, step), (j, (name, (title, colours))) in itertools.product(enumerate(steps), enumerate(names.items())):
        values = np.array([[mean_of(rows, name, step, x, y) for x in a1] for y in a2])
        axis = axes[i, j]
        axis.imshow(values, origin="lower", cmap=colours, aspect="auto")
        low, high = values.min(), values.max()
        for (y, x), value in np.ndenumerate(values):
            dark = (value - low) / max(high - low, 1e-12)
            dark = 1 - dark if name == "classifier_fid" else dark
            axis.text(x, y, f"{value:.3g}", ha="center", va="center", color="black" if dark > 0.55 else "white")
        axis.set_xticks(range(len(a1)), [f"{x:g}" for x in a1])
        axis.set_yticks(range(len(a2)), [f"{y:g}" for y in a2])
        axis.set_title(f"{title}, {step:,} steps", loc="left", fontsize=11)
        axis.set(xlabel=r"$\alpha_1$", ylabel=r"$\alpha_2$")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def mean_of(rows: list[dict[str, Any]], name: str, step: int, alpha1: float, alpha2: float) -> float:
    key = (step, alpha1, alpha2)
    return statistics.fmean(r[name] for r in rows if (r["step"], r["alpha1"], r["alpha2"]) == key)


# ---- what was claimed, and what came out


def verdict_angles(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Quartiles of the angles and the share of iterations beyond 90 degrees, by network and loss, over all seeds."""
    found: dict[str, Any] = {}
    for norm, loss in itertools.product(NORMS, RULES):
        own = [r for r in rows if (r["net"], r["loss"]) == (norm, loss)]
        entry: dict[str, Any] = {}
        for name in ("real-fake", "real-combined", "fake-combined"):
            values = [r[name] for r in own if not math.isnan(r[name])]
            entry[name] = {
                "mean degrees": round(statistics.fmean(values), 1),
                "quartiles": quartiles(values),
                # a right angle is what the rule aims at: not counted for its rounding
                "share beyond 90.1": round(statistics.fmean(v > 90.1 for v in values), 3),
            }
        entry["norms of the gradients, quartiles"] = {
            k: quartiles([r[f"norm {k}"] for r in own]) for k in ("real", "fake")
        }
        entry["iterations with a zero gradient"] = sum(math.isnan(r["real-fake"]) for r in own)
        found[f"{norm}, {loss}"] = entry
    return found


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
            "best cell": [*better[0], round(means[better[0]], 4)],
            "worst cell": [*better[-1], round(means[better[-1]], 4)],
            "rank of (0.5, 0.75)": f"{better.index((0.5, 0.75)) + 1} of {len(better)}"
            if (0.5, 0.75) in means
            else None,
        }
    return found


# ---- figures and files


def beside(axis: Any, ends: list[tuple[str, float, str]]) -> None:
    """Each line's name beside its end, pushed apart where they would overlap."""
    low, high = axis.get_ylim()
    gap, heights = (high - low) * 0.17 / axis.get_position().height / axis.figure.get_figheight(), [-math.inf]
    ends = sorted(ends, key=lambda e: e[1])
    for _, y, _ in ends:
        heights.append(max(y, heights[-1] + gap))
    down, x = max(heights[-1] - high, 0), axis.get_xlim()[1]
    for (label, _, colour), y in zip(ends, heights[1:], strict=True):
        place = {"textcoords": "offset points", "annotation_clip": False}
        axis.annotate(label, (x, y - down), (5, 0), color=colour, va="center", fontsize=9, **place)


def tidy(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color=GREY, alpha=0.35, linewidth=0.5)
    axis.margins(x=0)


@dataclass(frozen=True)
class Part:
    """One study: what it runs, how it is drawn, what it says, and how many rows it has."""

    rows: Callable[[], Iterator[dict[str, Any]]]
    draw: Callable[[list[dict[str, Any]], Path], None]
    verdict: Callable[[list[dict[str, Any]]], dict[str, Any]]
    total: int


def parts(images: Images, size: Size, out: Path) -> dict[str, Part]:
    """The three studies."""

    def on_grid() -> Iterator[dict[str, Any]]:
        return grid(images, size, Judge(images, trained(images, out / "classifier.pt")))

    cells = len(size.alpha1) * len(size.alpha2) * size.grid_seeds
    return {
        "angles": Part(lambda: angles(images, size), draw_angles, verdict_angles, 6 * size.seeds * size.iterations),
        "scores": Part(
            lambda: scores(images, size), draw_scores, verdict_scores, 2 * size.seeds * size.score_iterations
        ),
        "grid": Part(on_grid, draw_grid, verdict_grid, 2 * cells),
    }


def rows_of(name: str, part: Part, out: Path) -> list[dict[str, Any]]:
    """The rows of a part: from its CSV if that is complete, and by running it if not, writing as it goes."""
    path = out / f"{name}.csv"
    if path.exists() and len(rows := read(path)) == part.total:
        return rows
    with path.open("w", newline="") as file:
        writer = None
        for row in tqdm(part.rows(), total=part.total, desc=name, unit="row", mininterval=1.0):
            if writer is None:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
            file.flush()
    return read(path)


def read(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        text, whole = ("net", "loss"), ("seed", "iteration", "step")
        return [
            {k: v if k in text else int(v) if k in whole else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    here = Path(__file__).resolve().parent
    names = ("angles", "scores", "grid")
    parser.add_argument("--parts", nargs="+", choices=names, default=list(names), help="default: all")
    parser.add_argument("--quick", action="store_true", help="the smallest setting, to see that all runs")
    parser.add_argument("--data", type=Path, help="folder with the IDX files (default: Debian's)")
    parser.add_argument("--out", type=Path, default=here / "results" / "angles", help="default: beside the script")
    arguments = parser.parse_args(words)

    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        images = DATASETS["fashion-mnist"](arguments.data)
    except FileNotFoundError as missing:
        parser.exit(2, f"angles.py: {missing}\n")
    size = QUICK if arguments.quick else FULL
    summary = arguments.out / "angles.json"
    record: dict[str, Any] = json.loads(summary.read_text()) if summary.exists() else {}
    for name, part in parts(images, size, arguments.out).items():
        if name in arguments.parts:
            rows = rows_of(name, part, arguments.out)
            with plt.rc_context(STYLE):
                part.draw(rows, arguments.out / f"{name}.png")
            record[name] = part.verdict(rows)
            print(f"{name}: {json.dumps(record[name], indent=1)}")
            record = {"machine": machine_record(), "size": vars(size)} | {n: record[n] for n in names if n in record}
            summary.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
