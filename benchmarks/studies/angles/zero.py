"""What `AdaptiveWeights` does beside a gradient that is exactly zero: as it does by default, and as it is printed.

    python -m benchmarks.studies.angles.zero [--quick]

DCGAN with the hinge loss on Fashion-MNIST, as in `measure`, trained with Algorithm 1 and Algorithm 2 of Adaptive
Weighted Discriminator (CVPR 2021, arXiv:2012.03149), each with ``zero="train_other"`` and ``zero="printed"``, from the
same networks on the same batches. Writes zero.csv, a row a run, and zero.json with the means over paired seeds and the
machine record. A row says

- on how many steps the gradient of the real loss was zero, that of the fake one, or both;
- on how many of these the two settings differ: the loss that has a gradient is the one that is not favoured, and as
  printed it gets epsilon;
- the longest stretch of steps with a zero gradient, out of which epsilon leads more slowly;
- both hinge losses, mean over the run.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.record import machine_record
from benchmarks.studies.angles.runs import HINGE, NORMS, Pair
from benchmarks.studies.images.datasets import DATASETS, Images
from benchmarks.studies.intervals import mean_and_margin
from gradweight.gan import probability_scores
from gradweight.rules import AdaptiveWeights

RULES = {
    f"Algorithm {algorithm}, {zero}": AdaptiveWeights(normalized=algorithm == 1, zero=zero)  # type: ignore[arg-type]
    for algorithm, zero in itertools.product((1, 2), ("train_other", "printed"))
}


@dataclass(frozen=True)
class Size:
    """How much is run."""

    width: int
    iterations: int
    seeds: int


FULL, QUICK = Size(32, 300, 8), Size(8, 100, 4)


def run(images: Images, size: Size, norm: str, name: str, seed: int) -> dict[str, Any]:
    """Train one GAN and count."""
    rule, pair = RULES[name], Pair(images, size.width, NORMS[norm], seed, RULES[name])
    other = AdaptiveWeights(normalized=rule.normalized, zero="printed" if rule.zero == "train_other" else "train_other")
    steps = []
    for _ in range(size.iterations):
        real, fake = pair.batch()
        pair.d_opt.zero_grad()
        logits = pair.discriminator(real), pair.discriminator(fake)
        scores = probability_scores(*logits)
        seen = pair.d_opt.backward(HINGE.discriminator(*logits), **scores)
        pair.d_opt.step()
        pair.generator_step()
        weights = other(seen.gram, **scores)
        # a rule on the CPU may have been called with NumPy, which rounds otherwise
        differs = not torch.allclose(weights, seen.weights, rtol=1e-3)
        steps.append([*(seen.norms == 0).tolist(), differs, *seen.losses.tolist()])
    no_real, no_fake, differs, real_loss, fake_loss = zip(*steps, strict=True)
    zero = [a or b for a, b in zip(no_real, no_fake, strict=True)]
    return {
        "net": norm,
        "rule": name,
        "seed": seed,
        "real zero": sum(no_real),
        "fake zero": sum(no_fake),
        "both zero": sum(a and b for a, b in zip(no_real, no_fake, strict=True)),
        "differ": sum(differs),
        "longest stretch": max(sum(1 for _ in group) if is_zero else 0 for is_zero, group in itertools.groupby(zero)),
        "real loss": statistics.fmean(real_loss),
        "fake loss": statistics.fmean(fake_loss),
    }


def rows(images: Images, size: Size) -> Iterator[dict[str, Any]]:
    """Every run; the settings that are to be compared one after the other."""
    for seed, norm, name in itertools.product(range(size.seeds), NORMS, RULES):
        yield run(images, size, norm, name, seed)


def verdict(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means with 95% margins over the seeds, and the difference of printed to default over paired seeds."""
    columns = [name for name in found[0] if name not in ("net", "rule", "seed")]
    summary: dict[str, Any] = {}
    for norm in NORMS:
        of_rule = {name: [r for r in found if (r["net"], r["rule"]) == (norm, name)] for name in RULES}
        for name, own in of_rule.items():
            summary[f"{norm}, {name}"] = {c: mean_and_margin([float(r[c]) for r in own]) for c in columns}
        for algorithm in (1, 2):
            settings = (of_rule[f"Algorithm {algorithm}, {zero}"] for zero in ("printed", "train_other"))
            pairs = list(zip(*settings, strict=True))
            summary[f"{norm}, Algorithm {algorithm}, printed less train_other"] = {
                c: mean_and_margin([float(a[c] - b[c]) for a, b in pairs]) for c in columns
            }
    return summary


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} instead of {FULL}")
    parser.add_argument("--data", type=Path, help="folder with the IDX files (default: Debian's)")
    add_output_arguments(parser)
    arguments = parser.parse_args(words)
    try:
        images = DATASETS["fashion-mnist"](arguments.data)
    except FileNotFoundError as missing:
        parser.exit(2, f"zero.py: {missing}\n")
    size, out = QUICK if arguments.quick else FULL, output_folder(arguments, "angles")

    found: list[dict[str, Any]] = []
    with (out / "zero.csv").open("w", newline="") as file:
        total = size.seeds * len(NORMS) * len(RULES)
        for row in tqdm(rows(images, size), total=total, unit="run", mininterval=1.0):
            if not found:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
            file.flush()
            found.append(row)
    record = {"machine": machine_record(), "size": asdict(size), "zero": verdict(found)}
    (out / "zero.json").write_text(json.dumps(record, indent=1).replace("NaN", "null") + "\n")
    print(json.dumps(record["zero"], indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
