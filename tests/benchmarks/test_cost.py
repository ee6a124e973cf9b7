"""The scripts that make the numbers in README and docs still run, on tiny settings, and write what they say."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as everything
from benchmarks import tables
from benchmarks.cost import losses, overhead, variants
from benchmarks.cost.counting import Counting, count
from benchmarks.cost.overhead import combination
from benchmarks.cost.peak import peak_bytes
from benchmarks.cost.timing import interleaved
from benchmarks.models import BigGANDiscriminator, SNGANDiscriminator
from gradweight.linalg import gram
from gradweight.linalg import weighted_sum as weighted_sum_module
from gradweight.linalg.gram import CUTS

from .running import run


def run_here(monkeypatch: pytest.MonkeyPatch, script: str, out: Path, *arguments: str) -> dict[str, Any]:
    """What the script writes; run in this process, which has torch loaded already."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments, "--out", str(out)])
    importlib.import_module(f"benchmarks.cost.{script}").main()
    machine(out / f"{script}.json")
    assert (out / f"{script}.png").stat().st_size > 5_000
    written: dict[str, Any] = json.loads((out / f"{script}.json").read_text())
    return written


def machine(path: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads(path.read_text())["machine"]
    assert {"cpu", "cores", "torch", "date", "command"} <= record.keys()
    return record


@pytest.mark.slow
def test_pinn(tmp_path: Path) -> None:
    table = run("-m", "benchmarks.studies.pinn", "--steps", "5", "--seeds", "1", "--out", str(tmp_path))
    record = json.loads((tmp_path / "pinn.json").read_text())
    for name, errors in record["relative_error"].items():
        assert name in table
        assert len(errors) == 1
    machine(tmp_path / "pinn.json")
    assert all((tmp_path / name).exists() for name in ("pinn.png", "history.png", "conflicts.png"))


@pytest.mark.filterwarnings("ignore")
def test_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cell in ("pinn", "mlp"):
        results = run_here(monkeypatch, "step", tmp_path, "--cells", cell, "--rounds", "2")["results"]
    assert [result["cell"] for result in results] == ["mlp", "pinn"]  # a cell that was measured before is kept
    for result in results:
        assert result["ratio_quartiles"]["summed loss"] == [1, 1, 1]
        assert not [name for name in result["failed"] if name.startswith("gradweight")]
        assert {"cpu", "torch", "date"} <= result["machine"].keys()


@pytest.mark.filterwarnings("ignore")
def test_memory_is_at_the_floor_where_the_gradients_are_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mlp,) = run_here(monkeypatch, "memory", tmp_path, "--cells", "mlp", "--variants", "AngleBisector,paper")["results"]
    extra = mlp["extra_in_parameters"]
    # the summed loss has its peak in the last gradients and the activations; so have we, and one row more
    assert extra["gradweight AngleBisector, in place"] <= mlp["floor_in_place"]
    assert extra["gradweight AngleBisector"] <= mlp["floor_kept"]
    assert extra["Algorithm 1 as in the paper's text"] > mlp["floor_kept"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_here(monkeypatch, "losses", tmp_path, "--ms", "1,2", "--rounds", "2")["results"]
    assert [(r["problem"], r["m"]) for r in results] == [
        (problem, m) for problem in ("shared trunk", "disjoint graphs") for m in (1, 2)
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run_here(monkeypatch, "engines", tmp_path, "--ms", "8", "--rounds", "2", "--seconds", "5")["results"]
    assert [(r["problem"], r["m"]) for r in results] == [("heads", 8), ("samples", 8)]
    for result in results:
        assert {"rows", "batched", "without rows"} <= result["ratio_quartiles"].keys()
        beyond = result["memory_beyond"]
        assert beyond["without rows"] < beyond["rows"]
        if result["problem"] == "samples":
            # linear layers alone: no gradient of a sample, so less than one row; with rows there are eight
            assert beyond["without rows"] < 1 < 5 < beyond["rows"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_peer_that_fails_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_for_this(problem: variants.Problem) -> None:
        raise RuntimeError("no rule for\n  heads")

    found = losses.variants
    monkeypatch.setattr(losses, "variants", lambda problem: {**found(problem), "a peer": not_for_this})
    for result in run_here(monkeypatch, "losses", tmp_path, "--ms", "2", "--rounds", "2")["results"]:
        assert result["failed"]["a peer"] == "RuntimeError: no rule for heads"
        assert "a peer" not in result["ratio_quartiles"]
        assert "gradweight AngleBisector" in result["ratio_quartiles"]
    monkeypatch.setattr(losses, "variants", lambda problem: {**found(problem), "gradweight": not_for_this})
    with pytest.raises(RuntimeError, match="no rule for"):
        run_here(monkeypatch, "losses", tmp_path, "--ms", "2", "--rounds", "2")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_advas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plane,) = run_here(monkeypatch, "advas", tmp_path, "--cells", "plane", "--rounds", "2")["results"]
    assert plane["largest_difference_in_float64"] < 1e-12
    peak = plane["peak_bytes"]
    assert peak["penalty of terms"] < peak["penalty of a function"] < peak["own loss + penalty by hand, backward()"]


def test_overhead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = run_here(monkeypatch, "overhead", tmp_path, "--ks", "1e4,1e5", "--ms", "2,3", "--rounds", "2")
    assert [(r["m"], r["k"], r["operations"]) for r in record["sizes"]] == [
        (2, 10**4, 9),
        (2, 10**5, 9),
        (3, 10**4, 17),
        (3, 10**5, 17),
    ]
    assert not any(r["not_counted"] or r["allocations"] for r in record["sizes"])
    assert [r["tensors"] for r in record["tensors"]] == [1, 10, 100, 1000]


@pytest.mark.parametrize("m", [2, 4])
def test_the_combination_moves_each_gradient_twice_and_the_direction_once(m: int) -> None:
    k = 3_000_000  # two gradients do not fit the modelled cache together
    counted = count(combination(k, m, 1, torch.device("cpu")), 500)
    assert counted.operations == (m * (m + 1) + 2 * m - 1) * k
    # what the cache still holds from the Gram matrix is not read again, what it writes is a block of 4,096 at a time
    assert counted.moved <= (2 * m + 1) * k * 1.02
    assert counted.moved > (m + 1) * k
    assert counted.allocations == 0
    assert not counted.unknown


@pytest.mark.parametrize("tensors", [1, 40])
@pytest.mark.parametrize("m", [2, 4, 8])
def test_the_combination_of_a_gpu_is_counted_too(m: int, tensors: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations on lists of tensors: as many per element as on the CPU, and more traffic, since nothing is cached."""
    k = 2_000_000
    monkeypatch.setattr(weighted_sum_module, "is_launch_bound", lambda device: True)
    monkeypatch.setitem(CUTS, "cpu", CUTS["cuda"])
    monkeypatch.setattr(gram, "is_host_readable", lambda tensor: False)
    monkeypatch.setattr(overhead, "AngleBisector", lambda: lambda gram: gram[0])  # nothing of size k either way
    products = m * (m + 1) if m <= 6 else 2 * m * m  # pair by pair, or as a product of matrices
    run = combination(k, m, tensors, torch.device("cpu"))
    with Counting(500, cache=2**16) as counted:
        run()
    assert not counted.unknown
    assert counted.operations == (products + 2 * m - 1) * k
    if m <= 6:  # beyond, elements of two sizes move
        gradients = [[torch.randn(n) for n in overhead.pieces(k, tensors)] for _ in range(m)]
        with Counting(500, cache=2**16) as of_gram:
            gram.gram(gradients)
        # the first is copied and multiplied in place, then a term and its sum for each other one
        assert counted.moved == pytest.approx(of_gram.moved + (2 + 2 + 5 * (m - 1)) * k, rel=0.02)


def test_traffic_is_what_a_cache_has_to_fetch_and_write_back() -> None:
    n = 2**16
    a, b = torch.randn(n), torch.randn(n)
    inside, outside = 4 * 4 * n, 4 * n // 4  # bytes: all fits, little fits

    def moved(run: Any, cache: int) -> float:
        with Counting(500, cache) as counting:
            run()
        return counting.moved / n

    def twice() -> None:
        torch.dot(a, b)
        torch.dot(a, b)

    assert moved(twice, inside) == pytest.approx(2, abs=0.2)  # blocks at the ends
    assert moved(twice, outside) == pytest.approx(4, abs=0.4)
    assert moved(lambda: a.copy_(b), inside) == pytest.approx(2, abs=0.2)
    for cache in (inside, outside):
        assert moved(lambda: a.add_(b), cache) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("network", [SNGANDiscriminator, BigGANDiscriminator])
def test_no_activation_stands_between_the_images_and_the_first_convolution(network: Any) -> None:
    net, seen = network(width=8), {}
    first, second = [block for block in net.blocks if hasattr(block, "downsample")][:2]
    images = -torch.rand(2, 3, 32, 32)
    for block in (first, second):
        block.first.register_forward_pre_hook(lambda module, inputs: seen.update({module: inputs[0]}))
    net(images)
    assert torch.equal(seen[first.first], images)
    assert seen[second.first].min() == 0


def test_the_peak_is_what_was_held_at_once() -> None:
    def run() -> None:
        first = torch.ones(1000)
        del first
        second, third = torch.ones(2000), torch.ones(3000)
        del second, third
        torch.ones(4000)

    assert peak_bytes(run) == 5000 * 4


def test_all_of_it_fits_the_time_that_is_promised() -> None:
    assert sum((seconds or 0) + everything.GRACE for _, _, seconds in everything.QUICK) <= 660
    assert sum((seconds or 0) + everything.GRACE for _, _, seconds in everything.CUDA) <= 540
    assert all(seconds for _, _, seconds in everything.QUICK + everything.CUDA)
    assert {script for script, _, _ in everything.QUICK} == {script for script, _, _ in everything.CUDA}


STOPPED = """
import sys, time
try:
    time.sleep(60)
finally:
    open(sys.argv[1], "w").write("drawn")
"""


@pytest.mark.slow  # eight seconds of waiting
def test_what_is_stopped_draws_what_it_has(tmp_path: Path) -> None:
    outcome = everything.run([sys.executable, "-c", STOPPED, str(tmp_path / "figure")], 8)
    assert outcome.startswith("stopped at its limit of 8 s")
    assert (tmp_path / "figure").read_text() == "drawn"
    assert everything.run([sys.executable, "-c", "raise SystemExit(3)"], None) == "failed with exit code 3"
    assert everything.run([sys.executable, "-c", ""], 60) == "done"


def test_the_page_about_speed_says_what_was_measured() -> None:
    page = tables.PAGE.read_text()
    assert tables.filled(page) == page, "run python -m benchmarks.tables"
    assert {*tables.TABLES, "targets"} == set(re.findall(r"<!-- table: (\w+) -->", page))


def test_a_turn_is_several_calls_of_what_is_fast_and_one_of_what_is_slow():
    fast, slow = [], []
    ways = {"fast": lambda: fast.append(0), "slow": lambda: (slow.append(0), time.sleep(0.02))}
    times = interleaved(ways, rounds=4, warmups=1, turn=0.01)
    assert len(times["fast"]) == len(times["slow"]) == 4
    assert len(slow) == 5
    assert len(fast) > 3 * len(slow)
    one_by_one: list[int] = []
    interleaved({"fast": lambda: one_by_one.append(0)}, rounds=4, warmups=1, turn=0)
    assert len(one_by_one) == 5
