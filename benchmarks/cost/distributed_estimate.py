"""What several processes would cost on 8 to 4,096 GPUs, on paper: nothing here has been measured on such a machine.

Collectives follow the cost model of NCCL's own tuner (``src/graph/tuning.cc``): a launch, one latency for each hop,
bytes over bandwidth, ring or tree, whichever is faster, and the ring alone for reduce-scatter and all-gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.tables import markdown
from gradweight.distributed.buckets import CAPACITY, SHARE

__all__ = ["CLUSTER", "MODELS", "Cluster", "Model", "estimate"]

GPUS = (8, 64, 512, 4096)
LOSSES = (2, 4, 8)


@dataclass(frozen=True)
class Cluster:
    """Nodes of 8 GPUs that NVLink joins, one 400 Gb/s InfiniBand adapter for each GPU.

    Args:
        per_node: GPUs of a node.
        bandwidth: bytes per second and GPU that a collective reaches: over NVLink, and over the 8 adapters together.
        adapter: bytes per second of one adapter, for collectives of one GPU of each node.
        launch, nvlink, network: seconds to start a collective and of each hop.
        tree_nvlink: seconds of a hop in a tree.
        host: seconds of a hop between hosts over TCP, for what is agreed on there.
    """

    per_node: int = 8
    bandwidth: float = 370e9
    adapter: float = 47e9
    launch: float = 8.4e-6
    nvlink: float = 3.4e-6
    network: float = 14e-6
    tree_nvlink: float = 4.0e-6
    host: float = 25e-6

    def all_reduce(self, size: float, n: int) -> float:
        """Seconds to all-reduce ``size`` bytes over n GPUs, in whole nodes."""
        nodes = n // self.per_node
        between = 2 * nodes if nodes > 1 else 0
        moved = 2 * size * (n - 1) / n / self.bandwidth
        ring = self.launch + (2 * (n - 1) - between) * self.nvlink + between * self.network + moved
        hops = (self.per_node - 1) * self.tree_nvlink + math.log2(nodes) * self.network
        tree = self.launch + 2 * hops + 2 * size / (0.92 * self.bandwidth)
        return min(ring, tree)

    def scatter(self, size: float, n: int) -> float:
        """Seconds to reduce-scatter, or to all-gather, ``size`` bytes over n GPUs."""
        nodes = n // self.per_node
        hops = (n - nodes) * self.nvlink + (nodes - 1) * self.network
        return self.launch + hops + size * (n - 1) / n / self.bandwidth

    def across(self, size: float, nodes: int) -> float:
        """Seconds to all-reduce ``size`` bytes among one GPU of each node, all 8 of a node at once."""
        if nodes == 1:
            return 0.0
        ring = 2 * (nodes - 1) * self.network + 2 * size * (nodes - 1) / nodes / self.adapter
        tree = 2 * math.log2(nodes) * self.network + 2 * size / (0.92 * self.adapter)
        return self.launch + min(ring, tree)

    def agreement(self, n: int) -> float:
        """Seconds of one small all-reduce among the hosts: gloo's is a ring of all processes."""
        return 2 * (n - 1) * self.host


@dataclass(frozen=True)
class Model:
    """What is trained.

    Args:
        title: what it is.
        k: parameters.
        seconds: forward and backward of all losses on one GPU; what communication hides behind.
        units: what FSDP2 gathers at a time.
    """

    title: str
    k: float
    seconds: float
    units: int

    def backward(self, m: int) -> float:
        """Seconds of the backward of one of m losses on separate batches: a backward is twice its forward."""
        return 2 / 3 * self.seconds / m


def transformer(title: str, k: float, tokens: int, units: int) -> Model:
    """6 operations for each parameter and token, at 40 % of 989 TFLOP/s."""
    return Model(title, k, 6 * k * tokens / (0.4 * 989e12), units)


CLUSTER = Cluster()
MODELS = (
    # 256 images of 3 x 8.2 GFLOP at a quarter of 989 TFLOP/s
    Model("ResNet-50, 25.6 M", 25.6e6, 256 * 3 * 8.2e9 / (0.25 * 989e12), 17),
    transformer("350 M", 350e6, 16_384, 24),
    transformer("7 B", 7e9, 8_192, 32),
)
DDP_BUCKET = 25 * 2**20


def _in_buckets(total: float, largest: float) -> tuple[int, float]:
    count = max(1, math.ceil(total / largest))
    return count, total / count


def _hidden(row: float, backward: float, m: int) -> float:
    """What remains of m exchanges, each behind the backward of the next loss, after the last backward."""
    return row + (m - 1) * max(0.0, row - backward)


def replicated(cluster: Cluster, model: Model, n: int, m: int) -> dict[str, tuple[float, float]]:
    """Mode -> (seconds of exchange in a step, seconds that the step takes), float32 gradients."""
    count, size = _in_buckets(4 * model.k, DDP_BUCKET)
    bucket = cluster.all_reduce(size, n)
    rest = max(bucket, count * bucket - 2 / 3 * model.seconds)
    found = {"DDP": (count * bucket, model.seconds + rest)}
    count, size = _in_buckets(model.k, max(CAPACITY, SHARE * n))
    scalars = cluster.all_reduce(8 * m * m, n)
    row = count * cluster.all_reduce(4 * size, n)
    found["all"] = (m * row + scalars, model.seconds + _hidden(row, model.backward(m), m) + scalars)
    row = count * cluster.scatter(4 * size, n)
    gathered = row + 2 * scalars
    found["scatter"] = (m * row + gathered, model.seconds + _hidden(row, model.backward(m), m) + gathered)
    return found


def fsdp2(cluster: Cluster, model: Model, n: int, m: int, hybrid: bool) -> tuple[float, float]:
    """Seconds of exchange in a step that walks back m times: parameters gathered in bfloat16, reduced in float32.

    The first is the plain step's, the second ours. Each walk gathers once more, as the forward does.
    """
    group = cluster.per_node if hybrid else n
    gather = cluster.scatter(2 * model.k / model.units, group)
    reduced = cluster.scatter(4 * model.k / model.units, group)
    if hybrid:
        reduced += cluster.across(4 * model.k / model.units / cluster.per_node, n // cluster.per_node)
    walk = model.units * (gather + reduced)
    forward = model.units * gather
    return forward + walk, forward + m * walk + 2 * cluster.all_reduce(8 * m * m, n)


def _time(seconds: float) -> str:
    return (
        f"{seconds * 1e3:.2g} ms"
        if seconds < 0.0995
        else f"{seconds * 1e3:.0f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
    )


def _replicated_table(models: Sequence[Model]) -> str:
    header = ["replicated, float32", "GPUs", "DDP"]
    header += [f"m = {m}, {mode}" for m in LOSSES for mode in ("all", "scatter")]
    rows = []
    for model in models:
        for n in GPUS:
            row = [f"{model.title}: {_time(model.seconds)}" if n == GPUS[0] else "", f"{n:,}"]
            row.append(_time(replicated(CLUSTER, model, n, 1)["DDP"][0]))
            for m in LOSSES:
                found = replicated(CLUSTER, model, n, m)
                plain = found["DDP"][1]
                row += [f"{_time(found[mode][0])}, {found[mode][1] / plain:.2f}" for mode in ("all", "scatter")]
            rows.append(row)
    return markdown(header, rows)


def _sharded_table(model: Model) -> str:
    header = ["sharded, bfloat16 / float32", "GPUs", "over"]
    header += ["FSDP2", *(f"m = {m}" for m in LOSSES)]
    rows = []
    for n in GPUS:
        for hybrid in (False, True) if n > CLUSTER.per_node else (False,):
            row = [f"{model.title}: {_time(model.seconds)}" if n == GPUS[0] else "", f"{n:,}"]
            row += ["8, and copies" if hybrid else "all", _time(fsdp2(CLUSTER, model, n, 1, hybrid)[0])]
            row += [_time(fsdp2(CLUSTER, model, n, m, hybrid)[1]) for m in LOSSES]
            rows.append(row)
    return markdown(header, rows)


def _memory_table(models: Sequence[Model]) -> str:
    header = ["rows and direction on each GPU, m = 4", "reduce=all", *(f"scatter, {n:,} GPUs" for n in GPUS[:3])]
    header += [f"FSDP2, {n:,} GPUs" for n in GPUS[:3]]
    rows = []
    for model in models:
        row = [model.title, f"{(4 + 1) * 4 * model.k / 1e9:.3g} GB"]
        row += [f"{(4 / n + 1) * 4 * model.k / 1e9:.3g} GB" for n in GPUS[:3]]
        row += [f"{(4 + 1) / n * 4 * model.k / 1e9:.2g} GB" for n in GPUS[:3]]
        rows.append(row)
    return markdown(header, rows)


def _agreement_table() -> str:
    header = ["once in each step, of any model", *(f"{n:,} GPUs" for n in GPUS)]
    rows = [["hosts agree, each of two times", *(_time(CLUSTER.agreement(n)) for n in GPUS)]]
    rows.append(["m x m numbers are added up", *(_time(CLUSTER.all_reduce(512, n)) for n in GPUS)])
    return markdown(header, rows)


def estimate() -> str:
    """The tables of the documentation."""
    parts = [_replicated_table(MODELS[:2]), _sharded_table(MODELS[2]), _agreement_table(), _memory_table(MODELS)]
    return "\n\n".join(parts)
