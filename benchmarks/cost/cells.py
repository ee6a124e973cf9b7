"""The training problems whose steps are measured: a network, one batch, and named losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import (
    BigGANDiscriminator,
    PerceptronWithHeads,
    SNGANDiscriminator,
    TransformerWithHeads,
    dcgan_discriminator,
    mlp,
)

__all__ = ["CELLS", "Cell", "cells_to_run"]

Batch: TypeAlias = tuple[Tensor, ...]
Call: TypeAlias = Callable[..., Any]
"""The network, or what behaves like it."""


@dataclass(frozen=True)
class Cell:
    """One problem.

    Args:
        title: what it is.
        network: makes it.
        batch: the data of a step on a device.
        outputs: (network, batch) -> what the losses are computed from, by name.
        losses: outputs -> name -> scalar.
        rounds: how many steps of each variant are enough.
        separate: for losses that share no forward, each as a function (network, batch) -> scalar.
        compiles: whether a step fits into one graph: no module that writes to itself, no gradient inside a loss.
        shared: name of the output through which all losses reach the trunk.
        title_on_gpu: what it is on a GPU, if that is something else.
    """

    title: str
    network: Callable[[], nn.Module]
    batch: Callable[[torch.device], Batch]
    outputs: Callable[[Call, Batch], dict[str, Tensor]]
    losses: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    rounds: int
    separate: Mapping[str, Callable[[Call, Batch], Tensor]] = field(default_factory=dict)
    compiles: bool = False
    shared: str | None = None
    title_on_gpu: str | None = None

    def title_on(self, device: torch.device) -> str:
        """What it is on this device."""
        return self.title if device.type == "cpu" else self.title_on_gpu or self.title

    @property
    def is_gan(self) -> bool:
        """Whether the losses are those of a discriminator, which has scores."""
        return bool(self.separate)


def _on_real(logits: Tensor) -> Tensor:
    return F.softplus(-logits).mean()


def _on_fake(logits: Tensor) -> Tensor:
    return F.softplus(logits).mean()


def _gan(
    title: str,
    network: Callable[[], nn.Module],
    shape: tuple[int, ...],
    rounds: int,
    *,
    on_gpu: tuple[str, tuple[int, ...]] | None = None,
    compiles: bool = False,
) -> Cell:
    """A discriminator on two batches, each with a forward of its own."""

    def batch(device: torch.device) -> Batch:
        size = shape if on_gpu is None or device.type == "cpu" else on_gpu[1]
        return torch.randn(size, device=device), torch.rand(size, device=device)

    return Cell(
        title,
        network,
        batch,
        outputs=lambda call, batch: {"real": call(batch[0]), "fake": call(batch[1])},
        losses=lambda logits: {"real": _on_real(logits["real"]), "fake": _on_fake(logits["fake"])},
        rounds=rounds,
        separate={
            "real": lambda call, batch: _on_real(call(batch[0])),
            "fake": lambda call, batch: _on_fake(call(batch[1])),
        },
        compiles=compiles,
        title_on_gpu=None if on_gpu is None else on_gpu[0],
    )


# ---- Burgers' equation u_t + u u_x = (0.01 / pi) u_xx on [-1, 1] x [0, 1]


def _burgers_batch(device: torch.device) -> Batch:
    inside = torch.rand(1000, 2, device=device) * torch.tensor([2.0, 1.0], device=device)
    inside[:, 0] -= 1
    start = torch.stack([torch.linspace(-1, 1, 100, device=device), torch.zeros(100, device=device)], 1)
    edges = torch.stack(
        [torch.ones(100, device=device).copysign(start[:, 0]), torch.linspace(0, 1, 100, device=device)], 1
    )
    return inside, start, edges


def _burgers_outputs(call: Call, batch: Batch) -> dict[str, Tensor]:
    inside, start, edges = batch
    points = inside.detach().requires_grad_()
    u = call(points)
    first = torch.autograd.grad(u.sum(), points, create_graph=True)[0]
    second = torch.autograd.grad(first[:, 0].sum(), points, create_graph=True)[0]
    residual = first[:, 1] + u[:, 0] * first[:, 0] - 0.01 / torch.pi * second[:, 0]
    return {
        "equation": residual,
        "start": call(start)[:, 0] + torch.sin(torch.pi * start[:, 0]),
        "boundary": call(edges)[:, 0],
    }


def _pinn_network() -> nn.Module:
    sizes = [2, 64, 64, 64, 64]
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(64, 1))


# ---- four tasks on one transformer


def _four_tasks_batch(device: torch.device) -> Batch:
    x = torch.randn(16, 64, 128, device=device)
    return x, *(torch.randint(0, 10, (16,), device=device) for _ in range(4))


def _four_rows_batch(device: torch.device) -> Batch:
    x = torch.randn(1024, 32, device=device)
    return x, *(torch.randint(0, 10, (1024,), device=device) for _ in range(4))


def _four_tasks_outputs(call: Call, batch: Batch) -> dict[str, Tensor]:
    shared, logits = call(batch[0])
    errors = {
        f"task {i}": F.cross_entropy(some, labels)
        for i, (some, labels) in enumerate(zip(logits, batch[1:], strict=True))
    }
    return {"shared": shared, **errors}


def _all_but_shared(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss for name, loss in outputs.items() if name != "shared"}


CELLS: dict[str, Cell] = {
    "mlp": _gan("2-D MLP, 400 x 4, batch 128", lambda: mlp(400, 4), (128, 2), 60, compiles=True),
    "dcgan": _gan("DCGAN, batch 32", dcgan_discriminator, (32, 3, 32, 32), 160),
    "sngan": _gan("SN-GAN residual, batch 16", SNGANDiscriminator, (16, 3, 32, 32), 20),
    "biggan": _gan(
        "BigGAN-sized, 32 x 32, batch 4",
        BigGANDiscriminator,
        (4, 3, 32, 32),
        8,
        on_gpu=("BigGAN-sized, 128 x 128, batch 16", (16, 3, 128, 128)),
    ),
    "mlp25m": _gan("25 M-parameter MLP, batch 64", lambda: mlp(3000, 3, inputs=2048), (64, 2048), 30, compiles=True),
    "pinn": Cell(
        "PINN, Burgers, three losses",
        _pinn_network,
        _burgers_batch,
        _burgers_outputs,
        lambda outputs: {name: error.square().mean() for name, error in outputs.items()},
        rounds=100,
    ),
    "transformer": Cell(
        "transformer, four heads, batch 16",
        TransformerWithHeads,
        _four_tasks_batch,
        _four_tasks_outputs,
        _all_but_shared,
        rounds=30,
        compiles=True,
        shared="shared",
    ),
    "heads": Cell(
        "four heads of eight layers, batch 1024",
        PerceptronWithHeads,
        _four_rows_batch,
        _four_tasks_outputs,
        _all_but_shared,
        rounds=30,
        shared="shared",
    ),
}


def print_failed(failed: Mapping[str, str]) -> None:
    """Say of each way that did not run, why."""
    for name, error in failed.items():
        print(f"  {name:<44} not run: {error}")


def cells_to_run(wanted: str | None, device: torch.device, quick: bool) -> list[str]:
    """The names asked for, comma-separated; else all, but for the one whose steps take seconds on a CPU if quick."""
    if wanted is not None:
        return wanted.split(",")
    return [name for name in CELLS if not (quick and device.type == "cpu" and name == "biggan")]
