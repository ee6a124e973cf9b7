"""Does weighing losses help at all? Fixed weights, random ones and rules on five small problems.

    python -m benchmarks.studies.helps [--problems digits burgers helmholtz codec ring] [--quick]

Every method has nine trials to be tuned on, over three seeds; the best is then trained with 40 other seeds, paired
between methods. Fixed weights are there twice, with nine trials and with 45. Written are all runs of a problem, as they
are made (one csv for each), and for all problems together tables (helps.json, and docs/does-it-help.md for what is
cited) and a figure (helps.png). What was stopped goes on where it was when the same command is given, and problems may
be trained by several processes at once; `--report` makes tables and figure from what there is. `--quick` only shows
that it works. The whole takes some 20 minutes of a CPU core, and the digits are scikit-learn's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from tqdm import tqdm

from benchmarks.folders import ROOT, add_output_arguments, output_folder
from benchmarks.record import machine_record
from benchmarks.studies.helps.methods import FULL, PROBLEMS, QUICK, Scale, Trial, best, methods, trials
from benchmarks.studies.helps.report import write_report
from benchmarks.studies.helps.runs import JUDGED, TUNING, Run, Runs
from benchmarks.studies.helps.training import Problem, train
from benchmarks.studies.ring.study import flushed_denormals


def steps_of(problem: Problem, scale: Scale) -> int:
    return scale.steps or problem.steps


def study(problem: Problem, runs: Runs, scale: Scale) -> None:
    """Train what is not there yet: of each method all trials, then the best of them with the seeds to judge by."""
    steps, names = steps_of(problem, scale), methods(problem)
    tuned = sum(len(trials(problem, method, scale)) for method in names) * scale.tuning
    total = (tuned + len(names) * scale.judged) * steps
    with tqdm(total=total, unit="step", unit_scale=True, desc=problem.name, mininterval=1) as bar:
        for method in names:
            wanted = trials(problem, method, scale)
            for stage, seeds in ((TUNING, scale.tuning_seeds), (JUDGED, scale.judged_seeds)):
                if stage == JUDGED:
                    label = best(runs.scores(method, TUNING))
                    wanted = [trial for trial in wanted if trial.label == label]
                if runs.has(method, stage):
                    bar.update(len(seeds) * len(wanted) * steps)
                    continue
                start = time.process_time()
                made = [
                    run
                    for same in _by_rule(wanted)
                    for run in _trained(problem, method, stage, same, seeds, steps, bar)
                ]
                runs.add(made)
                bar.write(f"{problem.name:<10} {method:<18} {stage}: {time.process_time() - start:.1f} CPU s")


def _by_rule(wanted: Sequence[Trial]) -> list[list[Trial]]:
    groups: dict[str, list[Trial]] = {}
    for trial in wanted:
        groups.setdefault(repr(trial.rule), []).append(trial)
    return list(groups.values())


def _trained(
    problem: Problem, method: str, stage: str, same: list[Trial], seeds: list[int], steps: int, bar: tqdm
) -> list[Run]:
    """All trials of one rule with all seeds, side by side."""
    pairs = [(trial, seed) for trial in same for seed in seeds]
    rates = [trial.rate for trial, _ in pairs]
    results = train(problem, same[0].rule, [seed for _, seed in pairs], rates, steps, bar.update)
    return [
        Run(method, stage, trial.label, seed, result.pop("score"), result)
        for (trial, seed), result in zip(pairs, results, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), help="default: all")
    parser.add_argument("--quick", action="store_true", help="a few steps of a few seeds")
    parser.add_argument("--report", action="store_true", help="train nothing, write tables and figure again")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else FULL
    out = output_folder(arguments, scale.folder)
    if not arguments.report:
        torch.set_num_threads(1)  # the matrices are small
        try:
            with flushed_denormals():
                for name in arguments.problems:
                    problem = PROBLEMS[name]()
                    study(problem, Runs(out, name, problem, scale, machine_record()), scale)
        except KeyboardInterrupt:
            print("\nstopped: the same command goes on from here")
    page = ROOT / "docs" / "does-it-help.md" if arguments.cite and not arguments.quick else None
    write_report(out, scale, page)


if __name__ == "__main__":
    main()
