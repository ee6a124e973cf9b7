"""The ways to take one training step: the summed loss, ours, the peers', and the first paper's text.

All variants of a cell train one network with one Adam: they take turns, and none finds other parameters than the
rest. Every step ends with the gradients forgotten, so that each pays for what it allocated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from benchmarks.cost.cells import Cell
from benchmarks.cost.peers import conflictfree, paper, torchjd, torchjd_engine, torchjd_trunk
from benchmarks.cost.problem import Problem
from gradweight import LossBalancer, MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rules import AdaptiveWeights, AlignedMTL, AngleBisector, MConFIG, NashMTL, Sum, UPGrad

__all__ = ["PLAIN", "started", "variants"]

PLAIN = "summed loss"
OURS = (PLAIN, "gradweight")


def started(
    ways: Mapping[str, Callable[[Problem], Callable[[], None]]], problem: Problem
) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """The steps that have been taken once, which compiles what is compiled, and the errors of those that cannot be.

    What a peer, or the compiler on this machine, cannot do is a result, too.
    """
    steps: dict[str, Callable[[], None]] = {}
    failed: dict[str, str] = {}
    for name, make in ways.items():
        try:
            step = make(problem)
            step()
            steps[name] = step
        except Exception as error:
            if name.startswith(OURS) and not any(part in name for part in ("compiled", "captured", "Triton")):
                raise
            failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            problem.base.zero_grad()
    return steps, failed


def plain(problem: Problem) -> Callable[[], None]:
    """The step that everything is held against: one backward of the summed loss."""

    def step() -> None:
        sum(problem.losses().values()).backward()  # type: ignore[union-attr]
        problem.base.step()
        problem.base.zero_grad()

    return step


def plain_compiled(problem: Problem) -> Callable[[], None]:
    """The same with forward and backward compiled."""
    cell, net = problem.cell, problem.net
    total = torch.compile(lambda *batch: sum(cell.losses(cell.outputs(net, batch)).values()), fullgraph=True)

    def step() -> None:
        total(*problem.batch).backward()
        problem.base.step()
        problem.base.zero_grad()

    return step


def ours(rule: Any, *, shared: bool = False, **options: Any) -> Callable[[Problem], Callable[[], None]]:
    """The same step through the wrapper, with these options of its constructor."""

    def make(problem: Problem) -> Callable[[], None]:
        optimizer = MultiObjectiveGradient(problem.base, rule, **options)
        features = problem.cell.shared if shared else None

        def step() -> None:
            outputs = problem.outputs()
            scores = {}
            if isinstance(rule, AdaptiveWeights):
                scores = {f"{kind}_score": outputs[kind].detach().sigmoid().mean() for kind in ("real", "fake")}
            at = None if features is None else outputs[features]
            optimizer.backward(problem.cell.losses(outputs), shared=at, **scores)
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


def ours_one_due(rule: Any, **options: Any) -> Callable[[Problem], Callable[[], None]]:
    """The same step for a rule that remembers the others' gradients: one loss is due, round robin.

    Only that one is computed where the losses share no forward; else there is one forward of all.
    """

    def make(problem: Problem) -> Callable[[], None]:
        cell, optimizer = problem.cell, MultiObjectiveGradient(problem.base, rule, **options)
        names = tuple(problem.losses())
        dues = itertools.cycle(names)

        def step() -> None:
            due = next(dues)
            losses = cell.losses(problem.outputs()) if not cell.separate else dict.fromkeys(names)
            if cell.separate:
                losses[due] = cell.separate[due](problem.net, problem.batch)
            optimizer.backward(losses, due=due)  # type: ignore[arg-type]
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


def balanced(rule: Any, where: str = "parameters", **options: Any) -> Callable[[Problem], Callable[[], None]]:
    """The plain step with the sum weighted by a `LossBalancer`.

    Args:
        rule: of the balancer.
        where: what is probed: "parameters", "last layer", or "shared", the tensor that the cell's heads share.
        **options: of its constructor.
    """

    def make(problem: Problem) -> Callable[[], None]:
        params = list(problem.net.parameters())
        probed = {"parameters": params, "last layer": params[-2:], "shared": None}[where]
        balance = LossBalancer(rule, probed, **options)

        def step() -> None:
            outputs = problem.outputs()
            at = outputs[str(problem.cell.shared)] if where == "shared" else None
            balance(problem.cell.losses(outputs), at=at).backward()
            problem.base.step()
            problem.base.zero_grad()

        return step

    return make


def ours_compiled(rule: Any) -> Callable[[Problem], Callable[[], None]]:
    """`gradweight.func.combined_grad` as one compiled function, the base's step after it."""

    def make(problem: Problem) -> Callable[[], None]:
        cell, net = problem.cell, problem.net
        # detached, or the compiler also traces the derivative of the direction, which attention on a CPU has none of
        params = {name: p.detach() for name, p in net.named_parameters()}

        def losses(p: dict[str, Tensor], *batch: Tensor) -> dict[str, Tensor]:
            return cell.losses(cell.outputs(lambda x: functional_call(net, p, (x,)), batch))

        apart = {
            name: lambda p, *batch, loss=loss: loss(lambda x: functional_call(net, p, (x,)), batch)
            for name, loss in cell.separate.items()
        }
        direction = torch.compile(combined_grad(apart or losses, rule), fullgraph=True)

        def step() -> None:
            found, _ = direction(params, *problem.batch)
            for name, p in net.named_parameters():
                p.grad = found[name]
            problem.base.step()
            problem.base.zero_grad()

        return step

    return make


def captured(make: Callable[[Problem], Callable[[], None]]) -> Callable[[Problem], Callable[[], None]]:
    """The same step recorded once as a CUDA graph, then replayed."""

    def record(problem: Problem) -> Callable[[], None]:
        step = make(problem)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is set up once is not recorded
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    return record


def variants(
    cell: Cell, *, compiled: bool = False, on_gpu: bool = False, parts: str = ""
) -> dict[str, Callable[[Problem], Callable[[], None]]]:
    """Every way that the cell can be trained in, as far as the peers are installed.

    Args:
        cell: the problem.
        compiled: those that are compiled, too.
        on_gpu: those that need a GPU, too: launched one by one, and whole steps captured in CUDA graphs.
        parts: comma-separated; only variants whose names contain one of these, and the plain one.
    """
    ways: dict[str, Callable[[Problem], Callable[[], None]]] = {
        PLAIN: plain,
        "gradweight Sum": ours(Sum()),
        "gradweight AngleBisector": ours(AngleBisector()),
        "gradweight AngleBisector, in place": ours(AngleBisector(), accumulate=False),
        "gradweight UPGrad, in place": ours(UPGrad(), accumulate=False),
        "gradweight AlignedMTL, in place": ours(AlignedMTL(), accumulate=False),
        "gradweight MConFIG, one loss due": ours_one_due(MConFIG()),
        "gradweight MConFIG, one loss due, in place": ours_one_due(MConFIG(), accumulate=False),
        "LossBalancer UPGrad": balanced(UPGrad()),
        "LossBalancer UPGrad, refresh_every=10": balanced(UPGrad(), refresh_every=10),
    }
    if cell.is_gan:
        ways["gradweight AdaptiveWeights"] = ours(AdaptiveWeights())
        ways["Algorithm 1 as in the paper's text"] = paper
    if cell.shared:
        ways["gradweight UPGrad, shared="] = ours(UPGrad(), shared=True)
        ways["LossBalancer UPGrad, at the shared tensor"] = balanced(UPGrad(), "shared")
    else:  # with heads, each has a last layer of its own
        ways["LossBalancer UPGrad, last layer"] = balanced(UPGrad(), "last layer")
    if compiled and cell.compiles:
        ways["summed loss, compiled"] = plain_compiled
        ways["gradweight AngleBisector, compiled"] = ours_compiled(AngleBisector())
    if on_gpu:
        in_place = ours(AngleBisector(), accumulate=False)
        ways["gradweight NashMTL"] = ours(NashMTL())
        ways["gradweight AngleBisector, cuda_graphs=False"] = ours(AngleBisector(), cuda_graphs=False)
        if not cell.is_gan:
            ways["gradweight AngleBisector, engine='autograd'"] = ours(AngleBisector(), engine="autograd")
        ways["summed loss, captured"] = captured(plain)
        ways["gradweight AngleBisector, in place, captured"] = captured(in_place)
    if find_spec("torchjd"):
        ways["TorchJD UPGrad, sequential"] = torchjd("UPGrad", 1, gramian=False)
        ways["TorchJD UPGrad, sequential, Gramian path"] = torchjd("UPGrad", 1, gramian=True)
        ways["TorchJD UPGrad, batched, Gramian path"] = torchjd("UPGrad", None, gramian=True)
        ways["TorchJD AlignedMTL, sequential, Gramian path"] = torchjd("AlignedMTL", 1, gramian=True)
        ways["TorchJD ConFIG, sequential"] = torchjd("ConFIG", 1, gramian=False)
        ways["TorchJD UPGrad, autogram"] = torchjd_engine
        if cell.shared:
            ways["TorchJD UPGrad, mtl_backward"] = torchjd_trunk
    if find_spec("conflictfree"):
        ways["conflictfree ConFIG"] = conflictfree
    return {name: way for name, way in ways.items() if name == PLAIN or any(p in name for p in parts.split(","))}
