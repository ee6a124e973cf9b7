"""The ways in which several processes take a step on several losses, and what each should send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from benchmarks.models import mlp
from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

__all__ = ["BY_FSDP2", "EACH_BY_FSDP2", "MICRO", "PLAIN", "PROBLEMS", "Problem", "expected_bytes", "modes"]

PLAIN = "DDP, summed loss"
BY_FSDP2 = "gradweight, FSDP2"
EACH_BY_FSDP2 = "FSDP2, each loss by itself, added up"
MICRO = 4
"""Micro-batches of a step that accumulates."""


@dataclass(frozen=True)
class Problem:
    """A network that is trained on several losses, each on a batch of its own.

    With one batch for all losses there would be m walks through the network instead of one, on any number of processes;
    here each mode computes the same, and what differs is what is exchanged and combined.

    Args:
        title: what it is.
        width, depth: of the perceptron.
        samples: of each loss on each process.
    """

    title: str
    width: int
    depth: int
    samples: int

    def network(self) -> nn.Sequential:
        """The same on every process."""
        torch.manual_seed(0)
        return mlp(self.width, self.depth, inputs=64)

    def batches(self, m: int) -> list[Tensor]:
        """One for each loss, others on every process."""
        generator = torch.Generator().manual_seed(1 + distributed.get_rank())
        return [torch.randn(self.samples, 64, generator=generator) for _ in range(m)]


PROBLEMS = {
    "small": Problem("MLP, 128 x 3", 128, 3, 64),
    "10m": Problem("MLP, 1792 x 4", 1792, 4, 64),
}


def modes(problem: Problem, m: int) -> dict[str, Callable[[], None]]:
    """Name -> one training step."""
    batches = problem.batches(m)

    def losses(net: nn.Module, factor: float = 1.0) -> dict[str, Tensor]:
        return {str(i): factor * (net(x) - i).square().mean() for i, x in enumerate(batches)}

    def replicated(reduce: str, micro: int = 1) -> Callable[[], None]:
        net = problem.network()
        opt = MultiObjectiveGradient(
            torch.optim.Adam(net.parameters()),
            AngleBisector(),
            process_group=distributed.group.WORLD,
            reduce=reduce,  # type: ignore[arg-type]
        )

        def step() -> None:
            opt.zero_grad()
            with opt.no_sync():
                for _ in range(micro - 1):
                    opt.backward(losses(net, 1 / micro))
            opt.backward(losses(net, 1 / micro))
            opt.step()

        return step

    def summed(net: nn.Module, micro: int = 1) -> Callable[[], None]:
        opt = torch.optim.Adam(net.parameters())

        def step() -> None:
            opt.zero_grad()
            if micro > 1:
                assert isinstance(net, DistributedDataParallel)
                with net.no_sync():
                    for _ in range(micro - 1):
                        torch.stack(list(losses(net, 1 / micro).values())).sum().backward()
            torch.stack(list(losses(net, 1 / micro).values())).sum().backward()
            opt.step()

        return step

    def each() -> Callable[[], None]:
        net = sharded(problem)
        opt = torch.optim.Adam(net.parameters())

        def step() -> None:
            opt.zero_grad()
            for loss in losses(net).values():
                loss.backward()
            opt.step()

        return step

    def by_fsdp2() -> Callable[[], None]:
        net = sharded(problem)
        opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters()), AngleBisector())

        def step() -> None:
            opt.zero_grad()
            opt.backward(losses(net))
            opt.step()

        return step

    return {
        PLAIN: summed(DistributedDataParallel(problem.network())),
        "gradweight, reduce=all": replicated("all"),
        "gradweight, reduce=scatter": replicated("scatter"),
        f"DDP, summed loss, {MICRO} micro-batches": summed(DistributedDataParallel(problem.network()), MICRO),
        f"gradweight, {MICRO} micro-batches": replicated("all", MICRO),
        "FSDP2, summed loss": summed(sharded(problem)),
        EACH_BY_FSDP2: each(),
        BY_FSDP2: by_fsdp2(),
    }


def sharded(problem: Problem) -> nn.Module:
    """Every linear layer a unit of its own."""
    net = problem.network()
    # by itself FSDP2 would take a GPU where there is one
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)  # type: ignore[return-value]


def expected_bytes(mode: str, k: int, m: int, n: int, fsdp2: float | None) -> float | None:
    """What a process should send in a step, by the formula, in float32; None where it is FSDP2's own business.

    Args:
        mode: one of `modes`.
        k, m, n: parameters, losses, processes.
        fsdp2: what FSDP2 sent for each loss by itself.
    """
    rows = {
        PLAIN: 2,
        "gradweight, reduce=all": 2 * m,
        "gradweight, reduce=scatter": m + 1,
        f"DDP, summed loss, {MICRO} micro-batches": 2,
        f"gradweight, {MICRO} micro-batches": 2 * m,
    }
    if mode in rows:
        return 4 * rows[mode] * k * (n - 1) / n
    return fsdp2 + 4 * 2 * m * m * (n - 1) / n if mode == BY_FSDP2 and fsdp2 is not None else None
