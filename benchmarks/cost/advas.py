"""What does the AdvAs penalty cost a generator's step, in time and in memory, each way that it can be had?

    python -m benchmarks.cost.advas [--rounds N] [--device cuda] [--quick]

A DCGAN of 32 x 32 images with batch norm, and a perceptron on points in the plane. Each way is a whole step of the
generator with Adam, as a ratio to the plain step (its own loss, the discriminator's parameters left out of the
backward). The ways take turns; the operations of convolutions and matrix products are counted by torch's counter, the
peak memory of a step by its allocator. All but the half batches have one and the same direction at equal weights, which
is made sure of in float64.

Results are written to ``benchmarks/results/advas/``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cost.peak import peak_bytes
from benchmarks.cost.timing import interleaved, quartiles_of_ratios
from benchmarks.models import dcgan_discriminator, dcgan_generator, mlp
from benchmarks.pictures import BLUE, GREEN, INK, PURPLE, RED, SKY, panels, picture, save
from benchmarks.record import device_arguments, machine_record
from gradweight import MultiObjectiveGradient
from gradweight.gan import Vanilla, advas_penalty, advas_penalty_half_batches
from gradweight.rules import AdvAs, Sum

PLAIN = "plain step"
LOSS = Vanilla()


@dataclass(frozen=True)
class GAN:
    """A generator and a discriminator with one batch of noise and one of samples."""

    generator: nn.Module
    discriminator: nn.Module
    noise: Tensor
    real: Tensor
    optimizer: torch.optim.Optimizer

    @staticmethod
    def of(generator: nn.Module, discriminator: nn.Module, noise: Tensor, real: Tensor) -> GAN:
        """On the device of the samples, the generator under Adam."""
        generator, discriminator = generator.to(real.device), discriminator.to(real.device)
        return GAN(generator, discriminator, noise, real, torch.optim.Adam(generator.parameters(), 1e-5))

    def double(self) -> GAN:
        """The same in float64."""
        return GAN.of(self.generator.double(), self.discriminator.double(), self.noise.double(), self.real.double())

    @property
    def phi(self) -> dict[str, Tensor]:
        """What the discriminator is trained by."""
        return dict(self.discriminator.named_parameters())

    def adversary_loss(self, phi: dict[str, Tensor], fake: Tensor, real: Tensor) -> Tensor:
        """The discriminator's loss as a function of its parameters."""
        logits = (functional_call(self.discriminator, phi, (x,)) for x in (real, fake))
        return torch.stack(list(LOSS.discriminator(*logits).values())).sum()


def dcgan(device: torch.device) -> GAN:
    noise, real = torch.randn(32, 100, 1, 1, device=device), torch.rand(32, 3, 32, 32, device=device)
    return GAN.of(dcgan_generator(), dcgan_discriminator(), noise, real)


def plane(device: torch.device) -> GAN:
    noise, real = torch.randn(128, 2, device=device), torch.randn(128, 2, device=device)
    return GAN.of(mlp(400, 3, outputs=2), mlp(400, 3), noise, real)


CELLS: dict[str, tuple[str, Callable[[torch.device], GAN]]] = {
    "dcgan": ("DCGAN, batch 32", dcgan),
    "plane": ("2-D MLPs, 400 x 3, batch 128", plane),
}


def plain(gan: GAN) -> Callable[[], None]:
    """The generator's own loss."""
    optimizer, theta = gan.optimizer, list(gan.generator.parameters())

    def step() -> None:
        loss = LOSS.generator(gan.discriminator(gan.generator(gan.noise)))["fake"]
        torch.autograd.backward(loss, inputs=theta)
        optimizer.step()
        optimizer.zero_grad()

    return step


def summed(gan: GAN) -> Callable[[], None]:
    """Own loss and penalty added up by hand, ``.backward()``: everything that the graph reaches is differentiated."""
    optimizer = gan.optimizer

    def step() -> None:
        fake = gan.generator(gan.noise)
        loss = LOSS.generator(gan.discriminator(fake))["fake"]
        penalty = advas_penalty(lambda phi: gan.adversary_loss(phi, fake, gan.real), gan.phi)
        (loss + penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        gan.discriminator.zero_grad()

    return step


def penalised(
    penalty: Callable[[GAN, Tensor, Tensor], Tensor], *, rule: Any = None, at_samples: bool = False, every: int = 1
) -> Callable[[GAN], Callable[[], None]]:
    """A step under the rule, with the penalty (of fake samples and their logits) on every so many steps."""

    def make(gan: GAN) -> Callable[[], None]:
        optimizer = MultiObjectiveGradient(gan.optimizer, rule or AdvAs(every_step=every == 1), accumulate=False)
        steps = 0

        def step() -> None:
            nonlocal steps
            fake = gan.generator(gan.noise)
            logits = gan.discriminator(fake)
            terms = LOSS.generator(logits)
            if steps % every == 0:
                terms["advas"] = penalty(gan, fake, logits)
            steps += 1
            optimizer.backward(terms, shared=fake if at_samples else None)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


def of_function(gan: GAN, fake: Tensor, logits: Tensor) -> Tensor:
    return advas_penalty(lambda phi: gan.adversary_loss(phi, fake, gan.real), gan.phi)


def of_terms(gan: GAN, fake: Tensor, logits: Tensor) -> Tensor:
    return advas_penalty(LOSS.discriminator(gan.discriminator(gan.real), logits), gan.phi)


def of_half_batches(gan: GAN, fake: Tensor, logits: Tensor) -> Tensor:
    return advas_penalty_half_batches(gan.adversary_loss, gan.phi, fake, gan.real)


WAYS: dict[str, Callable[[GAN], Callable[[], None]]] = {
    PLAIN: plain,
    "own loss + penalty by hand, backward()": summed,
    "penalty of a function": penalised(of_function),
    "penalty of terms": penalised(of_terms),
    "penalty of terms, shared=fake": penalised(of_terms, at_samples=True),
    "half batches, of a function": penalised(of_half_batches),
}
EVERY_FOURTH = "penalty of terms, shared=fake, every 4th step"
FOUR_STEPS = penalised(of_terms, at_samples=True, every=4)


def agreement(cell: str) -> float:
    """The largest relative difference between steps that have to be the same, in float64, by plain gradient descent."""
    steps = []
    same = [penalised(p, rule=Sum(), at_samples=at) for p in (of_function, of_terms) for at in (False, True)]
    for way in (summed, *same):
        torch.manual_seed(0)
        gan = CELLS[cell][1](torch.device("cpu")).double()
        before = torch.cat([p.detach().flatten().clone() for p in gan.generator.parameters()])
        way(replace(gan, optimizer=torch.optim.SGD(gan.generator.parameters(), 1.0)))()
        steps.append(torch.cat([p.detach().flatten() for p in gan.generator.parameters()]) - before)
    return max(((step - steps[0]).norm() / steps[0].norm()).item() for step in steps[1:])


def measure(cell: str, device: torch.device, rounds: int, seconds: float) -> dict[str, Any]:
    title, make = CELLS[cell]
    torch.manual_seed(0)
    gan = make(device)
    steps = {name: way(gan) for name, way in WAYS.items()}
    times = interleaved(steps, rounds=rounds, seconds=seconds, device=device, title=title)
    four, plain_step = FOUR_STEPS(gan), plain(gan)
    groups = {PLAIN: lambda: [plain_step() for _ in range(4)], EVERY_FOURTH: lambda: [four() for _ in range(4)]}
    of_four = interleaved(groups, rounds=max(3, rounds // 4), seconds=seconds, device=device, title=title)
    operations = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        operations[name] = counter.get_total_flops()
    peaks = {}
    for name, way in WAYS.items():
        fresh = make(device)  # its Adam has no state yet
        step = way(fresh)
        peak = peak_bytes(lambda step=step: (step(), step()), device)  # type: ignore[misc]
        state = [t for of_one in fresh.optimizer.state.values() for t in of_one.values() if isinstance(t, Tensor)]
        peaks[name] = peak - sum(t.nbytes for t in state)
    return {
        "cell": cell,
        "title": title,
        "device": device.type,
        "parameters": {
            who: sum(p.numel() for p in net.parameters())
            for who, net in (("generator", gan.generator), ("discriminator", gan.discriminator))
        },
        "rounds": len(times[PLAIN]),
        "plain_ms": round(statistics.median(times[PLAIN]) * 1e3, 3),
        "ratio_quartiles": quartiles_of_ratios(times, PLAIN)
        | {EVERY_FOURTH: quartiles_of_ratios(of_four, PLAIN)[EVERY_FOURTH]},
        "operations": operations,
        "peak_bytes": peaks,
        "largest_difference_in_float64": agreement(cell),
    }


MARKS = ((INK, "o"), (RED, "D"), (BLUE, "^"), (SKY, "s"), (GREEN, "P"), (PURPLE, "v"))


@picture()
def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Time against peak memory, both as ratios to the plain step, a point for each way."""
    figure, axes = panels(1, len(results), 4.0)
    for place, result in zip(axes[0], results, strict=True):
        for (name, peak), (colour, marker) in zip(result["peak_bytes"].items(), MARKS, strict=False):
            memory, (low, time, high) = peak / result["peak_bytes"][PLAIN], result["ratio_quartiles"][name]
            place.plot([memory, memory], [low, high], color=colour, lw=1.2)
            place.plot(memory, time, marker, color=colour, ms=8, mew=0, label=name)
        place.set(xlim=(0, None), ylim=(0, None))
        place.set_title(f"{result['title']}\nplain step {result['plain_ms']:.3g} ms")
        place.set(xlabel="peak memory / plain step", ylabel="time of a step / plain step")
        place.margins(0.1)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="comma-separated: " + ", ".join(CELLS))
    parser.add_argument("--rounds", type=int, default=None)
    arguments = device_arguments(parser, "advas")
    rounds = arguments.rounds or (6 if arguments.quick else 30)

    results: list[dict[str, Any]] = []
    for cell in arguments.cells.split(","):
        result = measure(cell, arguments.device, rounds, arguments.seconds)
        results.append(result)
        plain_peak = result["peak_bytes"][PLAIN]
        print(f"\n{result['title']}: plain step {result['plain_ms']} ms, {plain_peak / 2**20:.2f} MiB at its peak")
        for name, (low, median, high) in result["ratio_quartiles"].items():
            peak = result["peak_bytes"].get(name)
            memory = "" if peak is None else f"   {peak / plain_peak:6.3f} x the memory ({peak / 2**20:.2f} MiB)"
            if name in result["operations"]:
                memory += f"   {result['operations'][name] / result['operations'][PLAIN]:6.3f} x the operations"
            print(f"  {name:<40} {median:6.3f} x the time [{low:.3f}, {high:.3f}]{memory}")
        print(f"  largest relative difference in float64: {result['largest_difference_in_float64']:.1e}")
        record = {"machine": machine_record(), "results": results}
        (arguments.out / "advas.json").write_text(json.dumps(record, indent=2) + "\n")
        draw(results, arguments.out / "advas.png")


if __name__ == "__main__":
    main()
