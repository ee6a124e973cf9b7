"""Do rules follow rounding errors? Random degenerate gradients, and what should not depend on rounding.

    python -m benchmarks.rules.fuzz [--matrices 100000] [--seed 0] [--form host|array] [--rules NAME,...] [--out DIR]
        [--quick]

Gradients with small integer entries, in a plane, with opposed pairs, with duplicates, and of all of that at norms up to
1e6 apart; two to six losses; the Gram matrix in float64, or rounded to float32. Each matrix is one kind, one precision,
and all rules that subtract gradients from each other or solve for weights. Counted are, for each rule:

- **conflict**: a rule that claims to have none has a cosine below -1e-6 (-1e-2 in float32) with some gradient;
- **dust**: the direction is not 0, and shorter than 1e-7 (1e-3) of the numbers that it was added up from;
- **order**: another order of the losses moves it by more than 1e-6 (1e-2) of those numbers, where the rule claims that
  it does not;
- **not finite**.

A rule that has been changed is measured again by itself with ``--rules``, on the same matrices; what there is of the
others stays.

100,000 matrices, 1.5 million directions, have found nothing in the rules as they are.

Gradients are exact; float64 stands for them in the checks, whose own rounding is 1e-15 of the numbers added up. Writes
``fuzz.json`` and ``fuzz.md`` to ``benchmarks/results/rules/``, with the first matrix of each finding.
"""

from __future__ import annotations

import argparse
import itertools
import json
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.record import machine_record
from benchmarks.rules.calls import write
from gradweight.rule import Signals, StatefulRule
from gradweight.rules import (
    IMTLG,
    MGDA,
    AlignedMTL,
    AngleBisector,
    CAGrad,
    ConFIG,
    DualProj,
    FairGrad,
    GradVac,
    NashMTL,
    OrthogonalProjection,
    PCGrad,
    SDMGrad,
    UPGrad,
)
from gradweight.rules.claims import CLAIMS, Claims

NAMES = tuple("abcdef")
RULES: dict[str, Claims] = {
    claims.name: claims
    for claims in CLAIMS
    if isinstance(
        claims.rule,
        AngleBisector
        | OrthogonalProjection
        | PCGrad
        | GradVac
        | UPGrad
        | DualProj
        | MGDA
        | CAGrad
        | NashMTL
        | FairGrad
        | ConFIG
        | IMTLG
        | AlignedMTL
        | SDMGrad,
    )
}
KINDS = ("integers", "plane", "opposed", "duplicates", "all")
FINDINGS = ("conflict", "dust", "order", "not finite")
LIMITS = {"float64": (1e-6, 1e-7, 1e-6), "float32": (1e-2, 1e-3, 1e-2)}


def gradients(kind: str, rng: np.random.Generator) -> np.ndarray:
    m = int(rng.integers(2, 7))
    k = 2 if kind == "plane" else int(rng.integers(1, 6))
    rows = rng.integers(-7, 8, (m, k)).astype(float)
    if kind in ("opposed", "all") and m > 1:
        i, j = rng.permutation(m)[:2]
        rows[i] = -rows[j] * rng.integers(1, 4)
    if kind in ("duplicates", "all") and m > 1:
        i, j = rng.permutation(m)[:2]
        rows[i] = rows[j] * rng.integers(1, 4)
    if kind == "all":
        rows *= 2.0 ** rng.integers(-10, 11, (m, 1))
    return rows


def direction(claims: Claims, rows: np.ndarray, names: tuple[str, ...], dtype: str, form: str) -> Any:
    """The direction, and how large the numbers are that it was added up from."""
    rule, gram = claims.rule, (rows @ rows.T).astype(dtype)
    gram = gram if form == "host" else torch.tensor(gram)
    given = Signals.of(rule).select({"names": names, "losses": gram[0] * 0 + 1, "step": 3})
    with np.errstate(all="ignore"):
        weights = (
            rule.update(gram, rule.init(gram), **given)[0] if isinstance(rule, StatefulRule) else rule(gram, **given)
        )
    weights = np.asarray(weights, dtype=np.float64)
    return weights @ rows, float(np.abs(weights) @ np.linalg.norm(rows, axis=1))


def findings(claims: Claims, rows: np.ndarray, order: np.ndarray, dtype: str, form: str) -> list[str]:
    conflict, dust, moved = LIMITS[dtype]
    d, size = direction(claims, rows, NAMES[: len(rows)], dtype, form)
    if not np.isfinite(d).all():
        return ["not finite"]
    found, length = [], np.linalg.norm(d)
    norms = np.linalg.norm(rows, axis=1)
    if claims.non_conflicting and len(rows) <= claims.losses[1] and length > 0:
        cosines = rows @ d / np.where(norms > 0, norms, 1) / length
        found += ["conflict"] * bool(cosines.min() < -conflict)
    found += ["dust"] * bool(0 < length < dust * size)
    if claims.permutation_equivariant:
        other, other_size = direction(claims, rows[order], tuple(NAMES[i] for i in order), dtype, form)
        found += ["order"] * bool(not np.linalg.norm(other - d) <= moved * max(size, other_size))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=("host", "array"), default="host", help="NumPy arrays, or tensors")
    parser.add_argument("--rules", default=None, help="comma-separated names; default: all")
    add_output_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="200 matrices, to see that it runs")
    arguments = parser.parse_args()
    out = output_folder(arguments, "rules")
    cells = list(itertools.product(KINDS, LIMITS))
    counts: dict[str, dict[str, int]] = {}
    first: dict[str, Any] = {}
    number = 200 if arguments.quick else arguments.matrices
    suffix = "" if arguments.form == "host" else "_array"
    record = {"machine": machine_record(), "matrices": number, "seed": arguments.seed, "form": arguments.form}
    rules, again = RULES, {}
    if arguments.rules is not None:
        rules = {name: RULES[name] for name in arguments.rules.split(",")}
        before = json.loads((out / f"fuzz{suffix}.json").read_text())
        if any(before[key] != record[key] for key in ("matrices", "seed", "form")):
            parser.error("--rules needs the number of matrices, the seed and the form that the others have")
        counts = {cell: row for cell, row in before["counts"].items() if cell.split(", float")[0] not in rules}
        first = {found: case for found, case in before["first"].items() if found.split(", float")[0] not in rules}
        again = before.get("again", {}) | dict.fromkeys(rules, record["machine"])
        record["machine"] = before["machine"]
    for i in tqdm(range(number), mininterval=10):
        kind, dtype = cells[i % len(cells)]
        rng = np.random.default_rng((arguments.seed, i))
        rows = gradients(kind, rng)
        order = rng.permutation(len(rows))
        for name, claims in rules.items():
            if not claims.losses[0] <= len(rows) <= claims.losses[1] or any(
                not rows[NAMES.index(needed)].any() for needed in claims.needs
            ):
                continue
            cell = f"{name}, {dtype}"
            counts.setdefault(cell, dict.fromkeys(("matrices", *FINDINGS), 0))["matrices"] += 1
            for finding in findings(claims, rows, order, dtype, arguments.form):
                counts[cell][finding] += 1
                first.setdefault(f"{cell}: {finding}", {"kind": kind, "rows": rows.tolist(), "order": order.tolist()})
    write(out, f"fuzz{suffix}", record | {"again": again, "counts": counts, "first": first})
    lines = ["| rule, precision | matrices | " + " | ".join(FINDINGS) + " |", "| --- |" + " --- |" * 5]
    lines += [f"| {cell} | " + " | ".join(map(str, row.values())) + " |" for cell, row in sorted(counts.items())]
    (out / f"fuzz{suffix}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
