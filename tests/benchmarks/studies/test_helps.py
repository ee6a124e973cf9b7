"""The study of whether weighing helps: its runs are the package's own, and its equations those that it names."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.folders import CITED, ROOT
from benchmarks.studies.helps import __main__ as helps
from benchmarks.studies.helps.adversarial import Codec, Ring
from benchmarks.studies.helps.digits import Digits
from benchmarks.studies.helps.methods import FINE, FIXED, FULL, PROBLEMS, QUICK, methods, trials
from benchmarks.studies.helps.networks import initial, with_derivatives
from benchmarks.studies.helps.pinns import VISCOSITY, Burgers, Helmholtz, burgers_solution, waves
from benchmarks.studies.helps.report import END, MARK, insert, judged_by, overview, read, tables
from benchmarks.studies.helps.runs import JUDGED, TUNING, Run, Runs
from benchmarks.studies.helps.training import Problem, train
from benchmarks.studies.intervals import holm
from gradweight import MultiObjectiveGradient
from gradweight.rule import Rule
from gradweight.rules import FAMO, AdaptiveWeights, ConFIG, NormBalance, Sum, UPGrad

RATES, STEPS = {7: 0.02, 3: 0.005}, 5


def one_by_one(problem: Problem, rule: Rule, seed: int, rate: float) -> dict[str, float]:
    """A run as a user would write it: an optimizer, named losses."""
    random = torch.Generator().manual_seed(seed)
    networks = problem.networks(random)
    batches = problem.batches(random, STEPS)
    params, opponent = ([nn.Parameter(t[None]) for t in tensors] for tensors in networks)
    opt = MultiObjectiveGradient(torch.optim.Adam(params, rate, betas=problem.betas), rule)
    against = torch.optim.Adam(opponent or [nn.Parameter(torch.zeros(()))], rate, betas=problem.betas)
    for step in range(STEPS):
        batch = [b[step][None] for b in batches]
        for group in (*opt.param_groups, *against.param_groups):
            group["lr"] = rate * (1 + math.cos(math.pi * step / STEPS)) / 2
        if opponent:
            against.zero_grad()
            problem.opponent_loss(params, opponent, batch).sum().backward(inputs=opponent)
            against.step()
        opt.zero_grad()
        terms, signals = problem.terms(params, opponent, batch)
        used = {name: value.squeeze(0) for name, value in signals.items()} if isinstance(rule, AdaptiveWeights) else {}
        opt.backward(dict(zip(problem.losses, (t.squeeze(0) for t in terms), strict=True)), **used)
        opt.step()
    with torch.no_grad():
        return {name: float(value) for name, value in problem.parts(params, opponent).items()}


@pytest.mark.parametrize(
    ("problem", "rule"),
    [
        (Burgers(), ConFIG()),
        (Helmholtz(), NormBalance()),
        (Codec(), FAMO()),
        (Codec(), UPGrad()),
        (Ring(), AdaptiveWeights()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_runs_side_by_side_are_single_runs(problem: Problem, rule: Rule) -> None:
    together = train(problem, rule, list(RATES), list(RATES.values()), STEPS)
    for result, (seed, rate) in zip(together, RATES.items(), strict=True):
        score = result.pop("score")
        # float32 through Adam, which divides by the root of a mean square: rounding of small entries is amplified
        assert result == pytest.approx(one_by_one(problem, rule, seed, rate), rel=2e-3)
        # kept to five digits
        assert score == pytest.approx(math.prod(result.values()) ** (1 / len(result)), rel=1e-4)


def test_derivatives_of_networks_are_those_of_autograd() -> None:
    random = torch.Generator().manual_seed(0)
    params = [torch.stack([t, 2 * t + 0.1]).double() for t in initial((2, 6, 6, 1), random)]
    points = torch.randn(2, 5, 2, generator=random, dtype=torch.float64)

    def u(run: int, point: Tensor) -> Tensor:
        for i in range(0, len(params), 2):
            point = point @ params[i][run] + params[i + 1][run, 0]
            point = torch.tanh(point) if i < len(params) - 2 else point
        return point.squeeze(-1)

    for second in ((1,), (0, 1)):
        found = torch.stack(with_derivatives(params, points, second))
        for run in range(2):
            for i, point in enumerate(points[run]):
                slopes = torch.func.jacrev(lambda p, run=run: u(run, p))(point)
                curvature = torch.func.hessian(lambda p, run=run: u(run, p))(point).diagonal()[list(second)].sum()
                expected = torch.stack([u(run, point), *slopes, curvature])
                torch.testing.assert_close(found[:, run, i], expected)


def test_solutions_solve_their_equations() -> None:
    n = 65
    points, u = burgers_solution(n)
    t, x = points.double().unbind(-1)
    grid = u.double().reshape(n, n)
    torch.testing.assert_close(grid[0], -torch.sin(math.pi * x[:n]), rtol=0, atol=1e-6)
    assert grid[:, [0, -1]].abs().max() < 1e-6
    h_t, h_x = float(t[n] - t[0]), float(x[1] - x[0])
    u_t = (grid[2:, 1:-1] - grid[:-2, 1:-1]) / (2 * h_t)
    u_x = (grid[1:-1, 2:] - grid[1:-1, :-2]) / (2 * h_x)
    u_xx = (grid[1:-1, 2:] - 2 * grid[1:-1, 1:-1] + grid[1:-1, :-2]) / h_x**2
    residual = u_t + grid[1:-1, 1:-1] * u_x - VISCOSITY * u_xx
    # differences of second order in steps of 1/32 where u_xx reaches 40
    assert residual.square().mean().sqrt() < 0.02 * u_xx.square().mean().sqrt()

    point = torch.tensor([0.3, -0.6], dtype=torch.float64)
    laplacian = torch.func.hessian(waves)(point).trace()
    torch.testing.assert_close(laplacian, -5 * math.pi**2 * waves(point))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_method_has_as_many_trials(name: str) -> None:
    problem = PROBLEMS[name]()
    for scale in (FULL, QUICK):
        counts = {method: len({t.label for t in trials(problem, method, scale)}) for method in methods(problem)}
        assert counts.pop(FINE) == 5 * len(scale.exponents)
        assert set(counts.values()) == {len(scale.exponents)}, counts
        assert not set(scale.tuning_seeds) & set(scale.judged_seeds)
    assert FIXED in methods(problem)


# ---- what is said of the runs


def runs(method: str, scores: list[float], stage: str = JUDGED, trial: str = "rate 1") -> list[Run]:
    return [Run(method, stage, trial, seed, score, {"error": score}) for seed, score in enumerate(scores)]


def test_a_method_that_halves_every_error_is_clearly_better() -> None:
    order = ["Sum", FIXED, "UPGrad", "MGDA"]
    errors = [1.0 + i / 40 for i in range(40)]
    made = [*runs("Sum", errors), *runs("UPGrad", [x / 2 for x in errors]), *runs("UPGrad", [9.0], stage=TUNING)]
    made += [*runs(FIXED, [x * (1.3 if i % 2 else 0.8) for i, x in enumerate(errors)]), *runs("MGDA", [2.0] * 40)]
    judged = judged_by(made, order)
    assert list(judged) == order
    assert (set(judged["Sum"].to), set(judged[FIXED].to), set(judged["MGDA"].to)) == ({FIXED}, {"Sum"}, {"Sum", FIXED})
    half, fixed, worse = (judged[name].to["Sum"] for name in ("UPGrad", FIXED, "MGDA"))
    assert (half.ratio, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (half.better, half.worse, half.clear) == (40, 0, 1)
    assert half.p == pytest.approx(3 * 2 / 2**40)  # the smallest of three comparisons
    assert (fixed.better, fixed.worse, fixed.clear, fixed.p) == (20, 20, 0, 1.0)
    assert (worse.better, worse.worse, worse.clear) == (0, 40, -1)
    text = overview({"Toy": judged})
    assert "| `UPGrad` | **0.50** | 1 better, 0 worse of 1 | 1 better, 0 worse of 1 |  |" in text
    assert "| `Sum` | rate 1 | 1.49 |" in tables({"Toy": judged})
    assert judged_by(runs("MGDA", errors), order) == {}  # nothing to compare with yet


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(p: list[float]) -> None:
    corrected = holm(p)
    assert all(c >= x for c, x in zip(corrected, p, strict=True))
    for level in (0.01, 0.05, 0.3):
        ranked, rejected = sorted(p), 0
        while rejected < len(p) and ranked[rejected] * (len(p) - rejected) <= level:
            rejected += 1
        assert sum(c <= level for c in corrected) == rejected


def test_a_page_without_its_marks_is_refused() -> None:
    begin = MARK.format("overview")
    assert insert(f"a\n{begin}\nold\n{END}\nb", {"overview": "new"}) == f"a\n{begin}\n\nnew\n\n{END}\nb"
    with pytest.raises(ValueError, match="needs the lines"):
        insert("a\nb", {"overview": "new"})


def test_the_page_shows_what_is_in_the_results() -> None:
    """docs/does-it-help.md is what ``--report --cite`` makes of the runs that are kept."""
    problems = read(CITED / "helps")
    page = (ROOT / "docs" / "does-it-help.md").read_text()
    assert insert(page, {"overview": overview(problems), "tables": tables(problems)}) == page


# ---- the script


def script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["helps", "--quick", *arguments])
    helps.main()


def test_a_stopped_study_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = dict.fromkeys(("Sum", FIXED), Sum())
    monkeypatch.setattr("benchmarks.studies.helps.methods.COMMON", few)
    script(monkeypatch, "--problems", "ring", "--out", str(tmp_path / "whole"))
    assert "AdaptiveWeights" in capsys.readouterr().out

    written, add = [], Runs.add

    def add_or_stop(self: Runs, made: list[Run]) -> None:
        if len(written) == 3:  # before the fixed weights are judged
            raise KeyboardInterrupt
        written.append(made)
        add(self, made)

    with monkeypatch.context() as patch:
        patch.setattr(Runs, "add", add_or_stop)
        script(patch, "--problems", "ring", "--out", str(tmp_path / "stopped"))
    assert "goes on from here" in capsys.readouterr().out
    script(monkeypatch, "--problems", "ring", "--out", str(tmp_path / "stopped"))

    whole, stopped = ((tmp_path / name / "ring.csv").read_text() for name in ("whole", "stopped"))
    assert whole == stopped
    assert whole.count("\n") == 1 + 3 * (3 * 2 + 3)  # methods; trials, tuning seeds, judged seeds
    record = json.loads((tmp_path / "stopped" / "ring.json").read_text())
    assert record["machine"]["torch"] == torch.__version__
    assert (tmp_path / "stopped" / "helps.png").stat().st_size > 10_000
    with pytest.raises(SystemExit, match="another setting"):
        Runs(tmp_path / "stopped", "ring", Ring(), FULL, {})


@pytest.mark.slow
def test_digits() -> None:
    pytest.importorskip("sklearn")
    digits = Digits()
    (result,) = train(digits, UPGrad(), [0], [0.01], 3)
    assert set(result) == {"left wrong", "right wrong", "image", "score"}
    x, left, right = digits._pairs(torch.tensor([5]), torch.tensor([6]))
    assert (x.shape, left.shape, right.shape) == ((1, 96), (1,), (1,))
    assert 0.5 < x.max() <= 1
