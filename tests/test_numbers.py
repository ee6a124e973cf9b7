"""The numbers that README and docs have in tables of their own are those of the kept results."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.ring.again import agreement, differences
from benchmarks.studies.ring.compare_runs import read_ends

ROOT = Path(__file__).resolve().parents[1]
PAIRS = ("real-fake", "real-combined", "fake-combined")
MOMENTS = {
    "before": "before",
    "after a plain step": "original",
    "after a weighted step": "aw",
    "the same, rescaled to the plain length": "aw at its length",
}


def results(name: str, file: str | None = None) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / name / f"{file or name}.json").read_text())


def page(name: str) -> str:
    return (ROOT / name).read_text().replace("**", "")


def test_the_step_in_the_readme() -> None:
    cells = {r["cell"]: r for r in results("step")["results"]}
    columns = [cells[name] for name in ("mlp", "dcgan", "sngan", "mlp25m", "pinn", "transformer")]
    ratios = [{name: quartiles[1] for name, quartiles in r["ratio_quartiles"].items()} for r in columns]
    text = page("README.md")
    for title, variant in {
        "gradweight, `AngleBisector`": "gradweight AngleBisector",
        "gradweight, `AngleBisector`, in place": "gradweight AngleBisector, in place",
        "gradweight, `AdaptiveWeights`": "gradweight AdaptiveWeights",
        "Algorithm 1 as the paper's text has it": "Algorithm 1 as in the paper's text",
        "conflictfree 0.1.8, `ConFIG`": "conflictfree ConFIG",
        "gradweight, `AngleBisector`, compiled": "gradweight AngleBisector, compiled",
        "gradweight, `UPGrad`, `shared=`": "gradweight UPGrad, shared=",
        "gradweight, `LossBalancer`, last layer": "LossBalancer UPGrad, last layer",
        "gradweight, `LossBalancer`, `refresh_every=10`": "LossBalancer UPGrad, refresh_every=10",
    }.items():
        numbers = "|".join(f" {r[variant]:.2f} " if variant in r else " " for r in ratios)
        assert f"| {title} |{numbers}|" in text
    fastest = [min(x for name, x in r.items() if name.startswith("TorchJD")) for r in ratios]
    assert "| TorchJD 0.18, fastest of its settings | " + " | ".join(f"{x:.2f}" for x in fastest) + " |" in text
    milliseconds = [f"{r['plain_ms']:.0f} ms" for r in columns]
    head = "2-D MLP, {} a step | DCGAN, {} | SN-GAN, {} | 25 M-parameter MLP, {} | PINN, {} | "
    head += "transformer, four heads, {} |"
    assert head.format(*milliseconds) in text


def test_what_shared_features_spare() -> None:
    (cell,) = (r for r in results("step")["results"] if r["cell"] == "transformer")
    one_by_one, shared = (
        cell["ratio_quartiles"][f"gradweight {way}"][1] for way in ("AngleBisector", "UPGrad, shared=")
    )
    text = " ".join(page("docs/multi-task.md").split())
    assert f"took {one_by_one:.2f} times that of the summed loss on two CPU cores, and {shared:.2f} times with" in text


@pytest.mark.parametrize("name", ["README.md", "docs/reproduced.md"])
def test_the_ring(name: str) -> None:
    summary = results("ring")["summary (mean, margin of 95%)"]
    modes, quality, kl = (summary["minus plain"]["aw"][metric] for metric in ("modes", "quality", "kl"))
    ours, theirs, p = summary["minus plain"]["aw"]["all 8 modes"]
    row = f"| difference | {modes[0]:+.1f} ± {modes[1]:.1f} | {ours} against {theirs}, p = {p:.2g} | "
    row += f"{quality[0]:+.0%} ± {quality[1]:.0%} | {kl[0]:+.2f} ± {kl[1]:.2f} |"
    assert row in page(name)
    for title, method in {"plain": "plain", "adaptive weights": "aw"}.items():
        found = summary["methods"][method]
        modes, quality, kl = found["modes"], found["quality"], found["kl"]
        seeds = f"{found['all 8 modes']} of {len(found['seeds'])} seeds"
        row = f"| {title} | {modes[0] + 1e-9:.1f} ± {modes[1]:.1f} | {seeds} | "
        row += f"{quality[0]:.0%} ± {quality[1]:.0%} | {kl[0]:.2f} ± {kl[1]:.2f} |"
        assert row in page(name)


def test_what_the_main_example_says_of_itself() -> None:
    ends = read_ends(ROOT / "benchmarks" / "results" / "ring" / "runs.csv")
    counts = [
        [sum(m == modes for (name, _), m in ends.items() if name == method) for method in ("plain", "aw")]
        for modes in (8, 0)
    ]
    written = " ".join(page("benchmarks/studies/ring/compare.py").split())
    (plain, weighted), (none, none_weighted) = counts
    assert (
        f"{plain} plain and {weighted} weighted GANs cover all eight modes, {none} and {none_weighted} none" in written
    )


def test_what_the_seed_decides() -> None:
    folders = (ROOT / "benchmarks" / "results" / name / "runs.csv" for name in ("ring", "ring_elsewhere"))
    first, second = (read_ends(path) for path in folders)
    text = " ".join(page("docs/reproduced.md").split())
    plain, weighted = (agreement(first, second)[method] for method in ("plain", "aw"))
    same = f"{plain['as many modes']} plain and {weighted['as many modes']} weighted runs of 40 cover as many modes"
    assert f"{same} as here" in text
    assert f"other seeds' would in {plain['by chance']:.0f} and {weighted['by chance']:.0f} (p = {plain['p']})" in text
    both, one = zip(plain["all eight in both, in one"], weighted["all eight in both, in one"], strict=True)
    assert f"all eight in both by {both[0]} and {both[1]}, in one by {one[0]} and {one[1]}" in text
    assert plain["p"] == weighted["p"]
    others = 80 - plain["as many modes"] - weighted["as many modes"]
    assert f"of the same 80 runs on another machine {others} ended with another number" in " ".join(
        page("README.md").split()
    )
    mean, margin = differences(second)
    assert f"{mean:+.1f} modes there ({mean - margin:+.1f} to {mean + margin:+.1f})" in text


def test_advas_on_other_seeds() -> None:
    study, text = results("ring_study_fresh", "study"), " ".join(page("docs/reproduced.md").split())
    found = next(claim["found"] for claim in study["claims"] if claim["method"] == "non-saturating/advas")
    counts = found["failure"]
    assert f"it alone failed with {counts['only']} and the plain GAN alone with {counts['only other']}" in text
    assert f"(p = {counts['p']:.2g}), and samples of high quality went up by {found['quality'][0]:.0%}" in text
    covered = study["at the end: count or mean, low, high"]["non-saturating/advas"]["success"][0]
    assert f"in {covered} of those {found['seeds']}" in text


def test_the_ring_where_the_plain_gan_is_stable() -> None:
    summary = results("ring_stable", "ring")["summary (mean, margin of 95%)"]
    plain, weighted = (summary["methods"][method]["modes"][0] + 1e-9 for method in ("plain", "aw"))
    mean, margin = summary["minus plain"]["aw"]["modes"]
    written = " ".join(page("benchmarks/studies/ring/compare.py").split())
    assert f"covers {plain:.1f} modes in the mean over 8 seeds and the weighted one {weighted:.1f}" in written
    assert f"interval of the difference {mean - margin:.1f} to {mean + margin:.1f})" in written


def test_the_physics_informed_network() -> None:
    errors = {name: statistics.median(values) for name, values in results("pinn")["relative_error"].items()}
    by_hand = " / ".join(f"{errors[f'Constant, boundary x {x}']:.2g}" for x in ("100", "10,000"))
    text = page("docs/pinn.md")
    assert f"| sum of the two losses | {errors['Sum']:.1f} |" in text
    assert f"x 1,000,000 | {by_hand} / {errors['Constant, boundary x 1,000,000']:.1f} |" in text
    assert f"| `AngleBisector`, nothing tuned | {errors['AngleBisector']:.2g} |" in text


def test_angles_and_scores() -> None:
    found, text = results("angles"), page("docs/reproduced-images.md")
    for norm in ("batch norm", "no batch norm"):
        for title, loss in {"plain sum": "original", "Algorithm 1": "aw", "relative epsilon": "aw-relative"}.items():
            pairs = (found["angles"][f"{norm}, {loss}"][pair] for pair in PAIRS)
            cells = []
            for pair in pairs:
                shares = [pair["share beyond 90.1"], pair["share beyond 90.1 where this angle exists"]]
                both = [f"{share + 1e-9:.0%}" for share in shares[: 1 if not cells else 2]]
                cells.append(f"{pair['quartiles'][1]:.0f} ({', '.join(both)})")
            assert f"| {title}, {norm} | " + " | ".join(cells) + " |" in text
        for title, moment in MOMENTS.items():
            after = found["scores"][norm][moment]
            assert f"| {title}, {norm} | {after['real score']:.3f} | {after['gap']:.3f} |" in text


def test_images() -> None:
    found, text = results("images")["summary (mean, margin of 95%)"], page("docs/reproduced-images.md")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith(("| DCGAN | ", "| SN-GAN | "))]
    tables = {(row[0][2:], row[1]): row[2:] for row in rows if len(row) > 4}
    assert len(tables) == 8
    columns = ("classifier_fid", "classifier_score", "precision", "recall", "sliced_wasserstein")
    for (network, method), cells in tables.items():
        one = found[network][method]
        for cell, column in zip(cells, columns, strict=False):
            for written, number in zip(cell.split(" ± "), one[column], strict=True):
                assert float(written) == pytest.approx(number, abs=0.5 * 10 ** -len(written.partition(".")[2]) + 1e-4)
        assert float(cells[-1].rstrip(" |")) == pytest.approx(one["seconds per generator step"], abs=0.5e-3)
    for network in found:
        shown = []
        for method in ("aw", "AdvAs", "both"):
            mean, margin = found[network][method]["minus plain"]["classifier_fid"]
            shown.append(f"{mean:+.1f} [{mean - margin:+.1f}, {mean + margin:+.1f}]")
        assert f"| {network} | " + " | ".join(shown) + " |" in text
