"""The ways to take one training step: the summed loss, ours, the peers', and the first paper's text.

All variants of a cell train one network with one Adam: they take turns, and none finds other parameters than the
rest. Every step ends with the gradients forgotten, so that each pays for what it allocated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.cost.cells import Batch, Cell
from benchmarks.cost.kernels import by_kernels
from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rules import AdaptiveWeights, AlignedMTL, AngleBisector, Sum, UPGrad

__all__ = ["PLAIN", "Problem", "started", "variants"]

PLAIN = "summed loss"
OURS = (PLAIN, "gradweight")


@dataclass(frozen=True)
class Problem:
    """A cell on a device, ready to train."""

    cell: Cell
    net: nn.Module
    base: torch.optim.Optimizer
    batch: Batch

    @staticmethod
    def of(cell: Cell, device: torch.device) -> Problem:
        """The cell's network with its initial parameters, and an Adam."""
        torch.manual_seed(0)
        with device:  # 88 M parameters and their spectral norms take seconds to set up on a CPU
            net = cell.network().to(device)
        # at a rate of zero a step costs the same, and the problem stays what it is after thousands of them: losses that
        # go to zero leave gradients of denormal numbers, on which a CPU is slow
        base = torch.optim.Adam(net.parameters(), 0.0, capturable=device.type == "cuda")
        return Problem(cell, net, base, cell.batch(device))

    def outputs(self) -> dict[str, Tensor]:
        """The forward pass."""
        return self.cell.outputs(self.net, self.batch)

    def losses(self) -> dict[str, Tensor]:
        """The forward pass, as named losses."""
        return self.cell.losses(self.outputs())


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


def ours(rule: Any, accumulate: bool = True, shared: bool = False) -> Callable[[Problem], Callable[[], None]]:
    """The same step through the wrapper."""

    def make(problem: Problem) -> Callable[[], None]:
        optimizer = MultiObjectiveGradient(problem.base, rule, accumulate=accumulate)
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


def paper(problem: Problem) -> Callable[[], None]:
    """Algorithm 1 as the text of the paper describes it: gradients flattened, inner products read by the host."""
    params = list(problem.net.parameters())

    def flat_gradient(loss: Tensor) -> Tensor:
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params)])

    def step() -> None:
        logits = problem.outputs()
        s_r, s_f = (logits[kind].sigmoid().mean().item() for kind in ("real", "fake"))
        losses = problem.cell.losses(logits)
        g_r, g_f = flat_gradient(losses["real"]), flat_gradient(losses["fake"])
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
        problem.base.step()
        problem.base.zero_grad()

    return step


def torchjd(name: str, chunk: int | None, gramian: bool) -> Callable[[Problem], Callable[[], None]]:
    """TorchJD: all losses batched in one backward (chunk None) or one after the other (1), then the aggregator."""

    def make(problem: Problem) -> Callable[[], None]:
        from torchjd import aggregation
        from torchjd.autojac import backward, jac_to_grad

        aggregator = getattr(aggregation, name)()
        params = list(problem.net.parameters())

        def step() -> None:
            backward(list(problem.losses().values()), inputs=params, parallel_chunk_size=chunk)
            jac_to_grad(params, aggregator, optimize_gramian_computation=gramian)
            problem.base.step()
            problem.base.zero_grad()

        return step

    return make


def torchjd_engine(problem: Problem) -> Callable[[], None]:
    """TorchJD's engine: the Gramian from module hooks, without the Jacobian, then one backward with the weights."""
    from torchjd.aggregation import UPGradWeighting
    from torchjd.autogram import Engine

    problem = Problem.of(problem.cell, problem.batch[0].device)  # its hooks stay on the network: it gets one of its own
    engine, weighting = Engine(problem.net, batch_dim=None), UPGradWeighting()

    def step() -> None:
        losses = torch.stack(list(problem.losses().values()))
        losses.backward(weighting(engine.compute_gramian(losses)))
        problem.base.step()
        problem.base.zero_grad()

    return step


def torchjd_trunk(problem: Problem) -> Callable[[], None]:
    """TorchJD for a shared trunk: the heads by themselves, the Jacobian of the trunk alone."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    trunk = list(problem.net.trunk.parameters())  # type: ignore[union-attr]
    aggregator = UPGrad()

    def step() -> None:
        outputs = problem.outputs()
        features = outputs[problem.cell.shared]  # type: ignore[index]
        mtl_backward(list(problem.cell.losses(outputs).values()), features=features, parallel_chunk_size=1)
        jac_to_grad(trunk, aggregator, optimize_gramian_computation=True)
        problem.base.step()
        problem.base.zero_grad()

    return step


def conflictfree(problem: Problem) -> Callable[[], None]:
    """ConFIG's own package, as its documentation has it: one backward per loss, gradients flattened."""
    from conflictfree.grad_operator import ConFIG_update, ConFIG_update_double
    from conflictfree.utils import apply_gradient_vector, get_gradient_vector

    net = problem.net

    def step() -> None:
        losses = list(problem.losses().values())
        gradients = []
        for i, loss in enumerate(losses):
            problem.base.zero_grad()
            loss.backward(retain_graph=not problem.cell.is_gan and i < len(losses) - 1)  # type: ignore[no-untyped-call]
            gradients.append(get_gradient_vector(net, none_grad_mode="zero"))
        update = ConFIG_update_double(*gradients) if len(gradients) == 2 else ConFIG_update(gradients)
        apply_gradient_vector(net, update, none_grad_mode="zero")
        problem.base.step()
        problem.base.zero_grad()

    return step


def variants(
    cell: Cell, *, compiled: bool = False, on_gpu: bool = False, parts: str = ""
) -> dict[str, Callable[[Problem], Callable[[], None]]]:
    """Every way that the cell can be trained in, as far as the peers are installed.

    Args:
        cell: the problem.
        compiled: those that are compiled, too.
        on_gpu: those that need a GPU, too: by Triton kernels, and captured in CUDA graphs.
        parts: comma-separated; only variants whose names contain one of these, and the plain one.
    """
    ways: dict[str, Callable[[Problem], Callable[[], None]]] = {
        PLAIN: plain,
        "gradweight Sum": ours(Sum()),
        "gradweight AngleBisector": ours(AngleBisector()),
        "gradweight AngleBisector, in place": ours(AngleBisector(), accumulate=False),
        "gradweight UPGrad, in place": ours(UPGrad(), accumulate=False),
        "gradweight AlignedMTL, in place": ours(AlignedMTL(), accumulate=False),
    }
    if cell.is_gan:
        ways["gradweight AdaptiveWeights"] = ours(AdaptiveWeights())
        ways["Algorithm 1 as in the paper's text"] = paper
    if cell.shared:
        ways["gradweight UPGrad, shared="] = ours(UPGrad(), shared=True)
    if compiled and cell.compiles:
        ways["summed loss, compiled"] = plain_compiled
        ways["gradweight AngleBisector, compiled"] = ours_compiled(AngleBisector())
    if on_gpu:
        in_place = ours(AngleBisector(), accumulate=False)
        ways["gradweight AngleBisector, in place, Triton"] = lambda problem: by_kernels(
            in_place(problem), problem.batch[0].device
        )
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
