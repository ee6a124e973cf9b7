"""What a torch optimizer promises to everything that is built around optimizers, kept by the wrapper."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Sum

from ..hosts.problem import (
    LEARNING_RATE,
    assert_same,
    batches,
    by_hand,
    halving,
    losses,
    network,
    wrapped,
)
from ..optimizers import BASES, train

# ---- schedulers and averages: the twin is the bare optimizer, which the rule Sum must not differ from


def warm_up(opt: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.LinearLR(opt, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(opt, 9)]
    return lr_scheduler.SequentialLR(opt, parts, [3])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "StepLR": halving,
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=20),  # cycles momentum or beta too
    "SWALR": lambda opt: swa_utils.SWALR(opt, swa_lr=0.01, anneal_epochs=5),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5),
    "SequentialLR": warm_up,
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, 0.1, total_iters=4), lr_scheduler.ExponentialLR(opt, 0.9)], opt
    ),
    "warm restarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=5),
}


# OneCycleLR cycles a momentum that this RMSprop is built without
PAIRS = [pair for pair in itertools.product(BASES, SCHEDULERS) if pair != ("RMSprop foreach", "OneCycleLR")]


@pytest.mark.parametrize(("base", "scheduler"), PAIRS)
def test_schedulers_before_and_after_load_state_dict(base: str, scheduler: str) -> None:
    runs = []
    for wrap in (lambda bare: MultiObjectiveGradient(bare, Sum()), lambda bare: bare):
        rates: list[tuple[object, ...]] = []

        def advance() -> None:
            schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))  # noqa: B023
            group = opt.param_groups[0]  # noqa: B023
            rates.append((group["lr"], group.get("momentum"), group.get("betas")))  # noqa: B023

        net = network()
        opt = wrap(BASES[base](net.parameters()))
        schedule = SCHEDULERS[scheduler](opt)
        train(net, opt, slice(6), advance)
        # the running pair is loaded into, as a crash-tolerant loop does, and then a fresh pair
        saved = copy.deepcopy((opt.state_dict(), schedule.state_dict()))
        opt.load_state_dict(copy.deepcopy(saved[0]))
        schedule.load_state_dict(copy.deepcopy(saved[1]))
        train(net, opt, slice(6, 9), advance)
        saved = copy.deepcopy((opt.state_dict(), schedule.state_dict()))
        opt = wrap(BASES[base](net.parameters()))
        schedule = SCHEDULERS[scheduler](opt)
        opt.load_state_dict(saved[0])
        schedule.load_state_dict(saved[1])
        train(net, opt, slice(9, None), advance)
        runs.append((net.state_dict(), rates))
    assert runs[0][1] == runs[1][1]
    assert len(set(runs[0][1])) > 1
    # autograd adds the two gradients layer by layer, the wrapper at the end: the last bit, over twelve steps
    assert_same(runs[0][0], runs[1][0], tolerance=1e-5)


@pytest.mark.parametrize("attached", ["to the wrapper", "to the base"])
def test_a_scheduler_works_on_the_wrapper_and_on_the_base(attached: str) -> None:
    net = network()
    opt = wrapped(net)
    schedule = halving(opt if attached == "to the wrapper" else opt.base)
    train(net, opt, slice(None), schedule.step)
    assert_same(net.state_dict(), by_hand(scheduler=halving))


def test_a_scheduler_that_runs_before_the_first_step_is_still_warned_about() -> None:
    net = network()
    opt = wrapped(net)
    schedule = halving(opt)
    opt.backward(losses(net, *batches()[0]))
    with pytest.warns(UserWarning, match="`lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`"):
        schedule.step()


@pytest.mark.parametrize("averaging", ["EMA", "SWA"])
def test_weight_averages_and_their_batch_norm_update(averaging: str) -> None:
    def run(wrap: Callable[[torch.optim.Optimizer], torch.optim.Optimizer]) -> dict[str, Tensor]:
        net = nn.Sequential(nn.BatchNorm1d(3), network())
        opt = wrap(torch.optim.Adam(net.parameters(), lr=LEARNING_RATE))
        average = swa_utils.AveragedModel(
            net, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9) if averaging == "EMA" else None
        )
        schedule = swa_utils.SWALR(opt, swa_lr=0.01, anneal_epochs=5)

        def after() -> None:
            average.update_parameters(net)
            schedule.step()

        train(net, opt, slice(None), after)
        swa_utils.update_bn([x for x, _ in batches()], average)
        return average.state_dict()

    found, expected = run(lambda bare: MultiObjectiveGradient(bare, Sum())), run(lambda bare: bare)
    assert float(expected.pop("n_averaged")) == float(found["n_averaged"]) == len(batches())
    expected.pop("module.0.num_batches_tracked")
    assert_same(found, expected, tolerance=1e-5)  # as above


# ---- unusual bases


def test_a_differentiable_base_steps_leaves_that_require_no_graph() -> None:
    """What torch itself refuses, a leaf that requires a gradient, is refused by the base and not hidden by us."""
    net = network()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1, differentiable=True), AngleBisector())
    opt.backward(losses(net, *batches()[0]))
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        opt.step()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf.*")
def test_a_differentiable_base_and_the_derivative_of_a_step() -> None:
    """As torch's own tests use it: the parameters are no leaves, and the step is differentiated by its learning rate.

    The direction is a constant in this: the rule's weights and the gradients carry no graph.
    """
    net = network()
    rate = torch.tensor(0.1, requires_grad=True)
    names = [name for name, _ in net.named_parameters()]
    params = [p.detach().clone().requires_grad_().clone() for p in net.parameters()]
    opt = MultiObjectiveGradient(torch.optim.SGD(params, lr=rate, differentiable=True), AngleBisector())
    x, y = batches()[0]
    model = dict(zip(names, params, strict=True))
    opt.backward(losses(lambda x: torch.func.functional_call(net, model, (x,)), x, y))
    direction = [p.grad.clone() for p in params]
    opt.step()
    (slope,) = torch.autograd.grad(sum(p.sum() for p in params), rate)
    torch.testing.assert_close(slope, -sum(d.sum() for d in direction), rtol=1e-5, atol=0)


def test_a_capturable_base_keeps_its_flag_and_its_own_error_on_the_cpu() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), capturable=True), AngleBisector())
    assert opt.defaults["capturable"] is opt.param_groups[0]["capturable"] is True
    opt.backward(losses(net, *batches()[0]))
    with pytest.raises(AssertionError, match="capturable"):
        opt.step()
