"""Would the tests notice? Small faults are put into the code one at a time, and the narrowest tests are run.

    python .ci/mutants.py [--files gradweight/rules,...] [--sample N] [--seed 0] [--minutes M] [--survivors]
        [--cite] [--out DIR]

By hand, not by CI: a mutant takes seconds. A mutant changes one node of a file's syntax tree: a comparison or an
operator for its opposite, ``and`` for ``or``, a condition for its negation, a number for another, True for False. Each
is run in a copy of the repository by the tests that mirror its file, and, if it survives them, by wider ones. What was
run before is not run again, as long as the file is the same: an interrupted run goes on where it was.

Writes ``mutants.json`` to ``build/mutants``, or with ``--cite`` to ``benchmarks/results/mutants``, and a table of the
survivors beside it. A survivor that changes nothing that a user could see is explained in `EXPLAINED`.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILES = "gradweight/rules,gradweight/gradients,gradweight/linalg/gram.py,gradweight/distributed/sums.py"
LIMIT = 600
"""Seconds for the tests of one mutant; to hang is to be noticed."""

SPEED = ("faster_on_numpy_from", "CUTS", "COMPILED")
"""What is assigned to these changes how long something takes and no result."""

EXPLAINED: dict[str, str] = {
    "gradweight/rules/_solvers/fairness.py: _STEPS_OF_TWO = 6: 6 -> 7 at 16": "one more step of one that has converged",
    "gradweight/rules/_solvers/host/fairness.py: y = y * ((y * (y / root) ** -beta).sum() / max((y * pull).sum(), "
    "eps)) ** (1 / (1 + beta)): -beta -> beta at 32": "where Newton's method begins: the same solution",
    "gradweight/rules/_solvers/host/ball.py: if not (along > 0 and length > 0):: along > 0 and length > 0 -> "
    "along > 0 or length > 0 at 16": "when the array form is asked instead, which solves the same problem",
    "gradweight/rules/_solvers/eigen.py: min(2 + m, 10) * (m - 1 if m % 2 == 0 else m),: m - 1 -> m + 1 at 26": (
        "rotations beyond those by which all has converged"
    ),
    "gradweight/rules/_solvers/host/fairness.py: y = root ** (beta / (1 + beta)): "
    "root ** (beta / (1 + beta)) -> root * (beta / (1 + beta)) at 8": "where Newton's method begins: the same solution",
    "gradweight/rules/epo.py: lowest = 8 * eps**0.5 * xp.sqrt(at_least(total(y * gains), 0)): 8 -> 9 at 17": (
        "how far below 0 rounding may have moved a gain: a little farther"
    ),
}
"""Survivors that no test can notice, as the report names them, and why."""

_COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
}


def mutated(node: ast.AST) -> Iterator[ast.AST]:
    """What else could stand there."""
    other: Any = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        other.ops[0] = _COMPARE[type(node.ops[0])]()
        yield other
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        other.op = _BINARY[type(node.op)]()
        yield other
    elif isinstance(node, ast.BoolOp):
        other.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        other.test = ast.UnaryOp(ast.Not(), node.test)
        yield other


def _left_alone(node: ast.AST) -> list[ast.AST]:
    """The parts of a node that no mutant is made of: annotations, texts, speed, and ``strict=True`` of `zip`."""
    if isinstance(node, ast.Raise | ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict"):
        return [node]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id in SPEED for target in targets):
            return [node]
    parts = (getattr(node, field, None) for field in ("annotation", "returns"))
    return [part for part in parts if part is not None]


def mutants_of(file: Path) -> Iterator[tuple[str, str]]:
    """Names and mutated sources of a file; docstrings, annotations and what is told to the user are left alone."""
    source = file.read_text()
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()))
    tree = ast.parse(source)
    skipped = {id(child) for node in ast.walk(tree) for part in _left_alone(node) for child in ast.walk(part)}
    data = source.encode()
    for node in ast.walk(tree):
        if id(node) in skipped or not hasattr(node, "lineno") or not isinstance(node, ast.expr):
            continue
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[operator]
        for other in mutated(node):
            text = f"({ast.unparse(ast.fix_missing_locations(other))})"
            before = " ".join(data[begin:end].decode().split())
            line = " ".join(source.splitlines()[node.lineno - 1].split())
            # by what stands there and not by its number, so that it is found again when lines come before it
            name = f"{file.relative_to(ROOT)}: {line}: {before} -> {text[1:-1]} at {node.col_offset}"
            yield name, (data[:begin] + text.encode() + data[end:]).decode()


def tests_of(file: Path) -> list[list[str]]:
    """Arguments of pytest, the narrowest first."""
    inside = file.relative_to(ROOT / "gradweight")
    mirror = ROOT / "tests" / inside.parent / f"test_{inside.stem.strip('_')}.py"
    narrow = [[str(mirror.relative_to(ROOT))]] if mirror.exists() else []
    if inside.parts[0] == "rules" and len(inside.parts) == 2 and not inside.stem.startswith(("_", "claims")):
        names = [n.name for n in ast.parse(file.read_text()).body if isinstance(n, ast.ClassDef)]
        return [*narrow, ["tests/rules", "-k", " or ".join(names)], ["tests/gradients/test_weighted.py"]]
    if inside.parts[0] == "rules":
        some = ("papers", "cagrad", "nash", "dependent", "opposed", "upgrad", "dualproj", "mgda")
        others = ("sdmgrad", "modo", "moco", "fairgrad", "config", "alignedmtl", "epo", "pcd", "every_rule")
        wider = [[f"tests/rules/test_{name}.py" for name in names] for names in (some, others)]
        return [*narrow, ["tests/rules/_solvers"], *wider]
    if inside.parts[0] == "gradients":
        return [*narrow, ["tests/gradients"], ["tests/step/test_backward.py", "tests/test_not_finite.py"]]
    if inside.parts[0] == "distributed":
        return [*narrow, ["tests/distributed/test_replicated.py", "tests/distributed/test_sharded.py"]]
    return [*narrow, [f"tests/{inside.parts[0]}"]]


def is_killed(tree: Path, file: Path, source: str) -> bool:
    """Whether a test of the copy in ``tree`` fails with this source."""
    place = tree / file.relative_to(ROOT)
    original = place.read_text()
    place.write_text(source)
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        for arguments in tests_of(file):
            command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *arguments]
            try:
                done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=LIMIT)
            except subprocess.TimeoutExpired:
                return True
            if done.returncode not in (0, 5):  # 5: no test was selected
                return True
        return False
    finally:
        place.write_text(original)


def main() -> None:
    """Run the mutants that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", default=FILES, help="comma-separated files and folders")
    parser.add_argument("--sample", type=int, default=100, help="how many mutants, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--survivors", action="store_true", help="those of before again, after tests were added")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when to stop")
    parser.add_argument("--cite", action="store_true", help="write to benchmarks/results/mutants, which is committed")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    out = arguments.out or ROOT / ("benchmarks/results/mutants" if arguments.cite else "build/mutants")
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "mutants.json"
    results: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}

    files = [ROOT / name for name in arguments.files.split(",")]
    files = [f for name in files for f in (sorted(name.rglob("*.py")) if name.is_dir() else [name])]
    # what is claimed of a rule is what the tests are made from
    files = [f for f in files if f.stem not in ("claims", "_claim", "_claim_tables")]
    every = [(f, name, source) for f in files for name, source in mutants_of(f)]
    chosen = random.Random(arguments.seed).sample(every, min(arguments.sample, len(every)))
    if arguments.survivors:
        survived = {name for name, result in results.items() if not result["killed"] and name not in EXPLAINED}
        chosen = [one for one in every if one[1] in survived]
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", "__pycache__", "build", "results", ".hypothesis", ".*_cache")
        shutil.copytree(ROOT, tree, ignore=ignored)
        for file, name, source in chosen:
            digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
            if results.get(name, {}).get("file") == digest and not arguments.survivors:
                continue
            if time.monotonic() > end:
                break
            results[name] = {"file": digest, "killed": is_killed(tree, file, source)}
            print("killed  " if results[name]["killed"] else "SURVIVED", name, flush=True)
            kept.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    report(results, len(every), out / "mutants.md")


def report(results: dict[str, dict[str, Any]], every: int, path: Path) -> None:
    """How many were noticed, and which were not."""
    survived = [name for name, result in results.items() if not result["killed"]]
    noticed = len(results) - len(survived)
    explained = sum(name in EXPLAINED for name in survived)
    lines = [
        f"{len(results)} of {every} mutants were run: {noticed} killed, {len(survived)} survived, of which {explained} "
        f"explained: {100 * (noticed + explained) / max(1, len(results)):.1f}% killed or explained.",
        "",
        *(f"- `{name}`: {EXPLAINED.get(name, 'not explained')}" for name in sorted(survived)),
    ]
    path.write_text("\n".join(lines) + "\n")
    print(lines[0])


if __name__ == "__main__":
    main()
