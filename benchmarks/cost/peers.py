"""The steps of others: the first paper's text, TorchJD and conflictfree."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cost.problem import Problem

__all__ = ["conflictfree", "paper", "torchjd", "torchjd_engine", "torchjd_engine_by_sample", "torchjd_trunk"]


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
    return _torchjd_engine(problem, None)


def torchjd_engine_by_sample(problem: Problem) -> Callable[[], None]:
    """The same of a vector of one loss per sample, with the engine's batch dimension."""
    return _torchjd_engine(problem, 0)


def _torchjd_engine(problem: Problem, batch_dim: int | None) -> Callable[[], None]:
    from torchjd.aggregation import UPGradWeighting
    from torchjd.autogram import Engine

    problem = Problem.of(problem.cell, problem.batch[0].device)  # its hooks stay on the network: it gets one of its own
    engine, weighting = Engine(problem.net, batch_dim=batch_dim), UPGradWeighting()

    def step() -> None:
        losses = torch.cat([loss.reshape(-1) for loss in problem.losses().values()])
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
