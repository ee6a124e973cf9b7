"""What does a whole training step cost, as a ratio to training on the summed loss?

    python benchmarks/step.py [--cells mlp,dcgan,sngan,mlp25m] [--rounds N] [--quick]

Each cell trains one discriminator on two losses with separate batches: forward of both, backward, combination,
Adam. The variants take turns step by step in one process, each on a copy of the network of its own, and every
step is divided by the plain step of the same round: a machine that slows down slows all of them down. Reported is
the median of these ratios with its quartiles. Results are written after every cell to
``benchmarks/results/step/``.

Peers take part if they are installed: ``pip install torchjd quadprog conflictfree``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.models import SNGANDiscriminator, dcgan_discriminator, mlp
from benchmarks.record import machine_record
from gradweight import MultiObjectiveGradient
from gradweight.rules import AdaptiveWeights, AngleBisector, Sum

RESULTS = Path(__file__).parent / "results" / "step"

# name: what it is, the network, one batch's shape, rounds
CELLS: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": ("2-D MLP, 400 x 4, batch 128", lambda: mlp(400, 4), (128, 2), 200),
    "dcgan": ("DCGAN, batch 32", dcgan_discriminator, (32, 3, 32, 32), 40),
    "sngan": ("SN-GAN residual, batch 16", SNGANDiscriminator, (16, 3, 32, 32), 20),
    "mlp25m": ("25 M-parameter MLP, batch 64", lambda: mlp(3000, 3, inputs=2048), (64, 2048), 30),
}


def plain(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """The step that everything is held against: one backward of the summed loss."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-4)

    def step() -> None:
        real, fake = net(torch.randn(shape)), net(torch.randn(shape))
        optimizer.zero_grad()
        (F.softplus(-real).mean() + F.softplus(fake).mean()).backward()
        optimizer.step()

    return step


def ours(net: nn.Module, shape: tuple[int, ...], rule: object, accumulate: bool = True) -> Callable[[], None]:
    """The same step through the wrapper."""
    optimizer = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), 2e-4), rule, accumulate=accumulate)
    takes_scores = isinstance(rule, AdaptiveWeights)

    def step() -> None:
        real, fake = net(torch.randn(shape)), net(torch.randn(shape))
        scores = {}
        if takes_scores:
            scores = {"real_score": real.detach().sigmoid().mean(), "fake_score": fake.detach().sigmoid().mean()}
        optimizer.zero_grad()
        optimizer.backward({"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}, **scores)
        optimizer.step()

    return step


def paper(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """Algorithm 1 as the text of the paper describes it: gradients flattened, inner products read by the host."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-4)
    params = list(net.parameters())

    def flat_gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params)])

    def step() -> None:
        real, fake = net(torch.randn(shape)), net(torch.randn(shape))
        s_r, s_f = real.sigmoid().mean().item(), fake.sigmoid().mean().item()
        g_r, g_f = flat_gradient(F.softplus(-real).mean()), flat_gradient(F.softplus(fake).mean())
        rr, rf, ff = (g_r @ g_r).item(), (g_r @ g_f).item(), (g_f @ g_f).item()
        if s_r < s_f - 0.05 or s_r < 0.5:
            w = (rr**-0.5, -rf / (ff * rr**0.5) if rf < 0 else 0.0)
        elif s_r > s_f - 0.05 and s_r > 0.75:
            w = (-rf / (rr * ff**0.5) if rf < 0 else 0.0, ff**-0.5)
        else:
            w = (rr**-0.5, ff**-0.5)
        direction = (w[0] + 0.05) * g_r + (w[1] + 0.05) * g_f
        for p, piece in zip(params, direction.split([p.numel() for p in params]), strict=True):
            p.grad = piece.view_as(p)
        optimizer.step()

    return step


def torchjd(net: nn.Module, shape: tuple[int, ...], chunk: int | None, gramian: bool) -> Callable[[], None]:
    """TorchJD's UPGrad: all losses batched in one backward (chunk None) or one after the other (1)."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import backward, jac_to_grad

    optimizer = torch.optim.Adam(net.parameters(), 2e-4)
    aggregator = UPGrad()

    def step() -> None:
        real, fake = net(torch.randn(shape)), net(torch.randn(shape))
        optimizer.zero_grad()
        backward([F.softplus(-real).mean(), F.softplus(fake).mean()], parallel_chunk_size=chunk)
        jac_to_grad(net.parameters(), aggregator, optimize_gramian_computation=gramian)
        optimizer.step()

    return step


def conflictfree(net: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    """ConFIG's own package, as its documentation has it: one backward per loss, gradients flattened."""
    from conflictfree.grad_operator import ConFIG_update_double
    from conflictfree.utils import apply_gradient_vector, get_gradient_vector

    optimizer = torch.optim.Adam(net.parameters(), 2e-4)

    def step() -> None:
        gradients = []
        for sign in (-1, 1):
            optimizer.zero_grad()
            F.softplus(sign * net(torch.randn(shape))).mean().backward()
            gradients.append(get_gradient_vector(net))
        apply_gradient_vector(net, ConFIG_update_double(*gradients))
        optimizer.step()

    return step


VARIANTS: dict[str, Callable[[nn.Module, tuple[int, ...]], Callable[[], None]]] = {
    "summed loss": plain,
    "gradweight Sum": lambda net, shape: ours(net, shape, Sum()),
    "gradweight AngleBisector": lambda net, shape: ours(net, shape, AngleBisector()),
    "gradweight AngleBisector, in place": lambda net, shape: ours(net, shape, AngleBisector(), accumulate=False),
    "gradweight AdaptiveWeights": lambda net, shape: ours(net, shape, AdaptiveWeights()),
    "Algorithm 1 as in the paper's text": paper,
}
if find_spec("torchjd"):
    VARIANTS["TorchJD UPGrad, sequential"] = lambda net, shape: torchjd(net, shape, chunk=1, gramian=False)
    VARIANTS["TorchJD UPGrad, sequential, Gramian path"] = lambda net, shape: torchjd(net, shape, chunk=1, gramian=True)
    VARIANTS["TorchJD UPGrad, batched"] = lambda net, shape: torchjd(net, shape, chunk=None, gramian=True)
if find_spec("conflictfree"):
    VARIANTS["conflictfree ConFIG"] = conflictfree


def measure(cell: str, rounds: int) -> dict[str, object]:
    """Times of every variant, in turn, and their ratios to the plain step of the same round."""
    title, network, shape, _ = CELLS[cell]
    steps = {}
    for name, variant in VARIANTS.items():
        torch.manual_seed(0)
        steps[name] = variant(network(), shape)
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for i in tqdm(range(-2, rounds), desc=title, leave=False):
        for name in names[i % len(names) :] + names[: i % len(names)]:  # nobody always runs after the same neighbour
            start = time.perf_counter()
            steps[name]()
            if i >= 0:  # two rounds of warm-up
                times[name].append(time.perf_counter() - start)
    base = times["summed loss"]
    ratios = {
        name: statistics.quantiles([t / b for t, b in zip(times[name], base, strict=True)], n=4) for name in times
    }
    return {
        "cell": cell,
        "title": title,
        "parameters": sum(p.numel() for p in network().parameters()),
        "rounds": rounds,
        "plain_ms": round(statistics.median(base) * 1e3, 3),
        "ratio_quartiles": {name: [round(q, 4) for q in quartiles] for name, quartiles in ratios.items()},
    }


def draw(results: list[dict[str, object]], path: Path) -> None:
    """One group of bars per cell, medians with quartiles, the plain step as the line at 1."""
    names = [name for name in VARIANTS if name != "summed loss"]
    figure, axes = plt.subplots(figsize=(11, 4), layout="constrained")
    width = 0.8 / len(names)
    for k, name in enumerate(names):
        quartiles = [result["ratio_quartiles"][name] for result in results]  # type: ignore[index]
        median = [q[1] for q in quartiles]
        error = [[q[1] - q[0] for q in quartiles], [q[2] - q[1] for q in quartiles]]
        places = [i + (k - (len(names) - 1) / 2) * width for i in range(len(results))]
        axes.bar(places, median, width, yerr=error, label=name, error_kw={"lw": 0.8})
    axes.axhline(1, color="black", lw=0.8)
    axes.set_yscale("log", base=2)
    axes.set_ylim(0.7, None)
    axes.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.grid(axis="y", alpha=0.3)
    axes.set_xticks(range(len(results)), [f"{r['title']}\n({r['plain_ms']:.0f} ms)" for r in results], fontsize=8)
    axes.set_ylabel("time of a step / plain step on the summed loss")
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="comma-separated: " + ", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=None, help="steps of each variant (default: by cell)")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    results: list[dict[str, object]] = []
    for cell in arguments.cells.split(","):
        rounds = arguments.rounds or max(4, CELLS[cell][3] // (5 if arguments.quick else 1))
        result = measure(cell, rounds)
        results.append(result)
        print(f"\n{result['title']}: {result['parameters']:,} parameters, plain step {result['plain_ms']} ms")
        for name, (low, median, high) in result["ratio_quartiles"].items():  # type: ignore[attr-defined]
            print(f"  {name:<42} {median:6.3f}   [{low:.3f}, {high:.3f}]")
        record = {"machine": machine_record(), "results": results}
        (arguments.out / "step.json").write_text(json.dumps(record, indent=2) + "\n")
        draw(results, arguments.out / "step.png")


if __name__ == "__main__":
    main()
