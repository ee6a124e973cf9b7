"""What a torch optimizer promises to everything that is built around optimizers, kept by the wrapper."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import lr_scheduler, swa_utils
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rule import Rule
from gradweight.rules import AngleBisector, Sum

from .hosts.problem import (
    LEARNING_RATE,
    SlowNorms,
    assert_same,
    batches,
    by_hand,
    halving,
    losses,
    network,
    wrapped,
)

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.05),
    "AdamW fused": lambda params: torch.optim.AdamW(params, lr=0.05, fused=True),
    "RMSprop foreach": lambda params: torch.optim.RMSprop(params, lr=0.05, foreach=True),
}
BASE = pytest.mark.parametrize("base", list(BASES))
RULE = pytest.mark.parametrize("rule", [AngleBisector(), SlowNorms()], ids=lambda rule: type(rule).__name__)


def train(net: nn.Module, opt: torch.optim.Optimizer, part: slice, after: Callable[[], object] = lambda: None) -> None:
    for batch in batches()[part]:
        opt.zero_grad()
        values = losses(net, *batch)
        if isinstance(opt, MultiObjectiveGradient):
            opt.join(values).backward()
        else:
            torch.stack(list(values.values())).sum().backward()
        opt.step()
        after()


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


@BASE
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_schedulers_before_and_after_load_state_dict(base: str, scheduler: str) -> None:
    if base == "RMSprop foreach" and scheduler == "OneCycleLR":
        pytest.skip("it cycles a momentum that this base was built without")
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


# ---- torch.distributed.checkpoint


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def assert_resumes(
    rule: Rule,
    base: str,
    resume: Callable[[nn.Module, torch.optim.Optimizer, nn.Module, torch.optim.Optimizer], None],
    make: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> None:
    """A run whose state went through ``resume(net, opt, fresh_net, fresh_opt)`` goes on as if nothing had happened."""

    def fresh() -> tuple[nn.Module, MultiObjectiveGradient]:
        net = network()
        return net, MultiObjectiveGradient(BASES[base](net.parameters()) if make is None else make(net), rule)

    net, opt = fresh()
    train(net, opt, slice(6))
    net2, opt2 = fresh()
    resume(net, opt, net2, opt2)
    train(net2, opt2, slice(6, None))
    train(net, opt, slice(6, None))
    assert_same(net2.state_dict(), net.state_dict(), tolerance=0.0)
    if isinstance(rule, SlowNorms):
        for each in (opt, opt2):
            assert int(each.param_groups[0]["rule_state"]["state of fit~size"]["steps"]) == len(batches())


FLAT = pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])


@FLAT
@RULE
@BASE
def test_dcp_state_dict_in_memory(base: str, rule: Rule, flat: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        net2.load_state_dict(net.state_dict())
        # torch keeps the tensors that it is given
        saved = copy.deepcopy(get_optimizer_state_dict(net, opt, options=options))
        assert any("exp_avg" in key or "buffer" in key or "square" in key or key == "state" for key in saved)
        set_optimizer_state_dict(net2, opt2, saved, options=options)

    assert_resumes(rule, base, resume)


@FLAT
@RULE
@BASE
def test_dcp_state_dict_through_torch_save(base: str, rule: Rule, flat: bool, tmp_path: Path) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        torch.save(get_state_dict(net, opt, options=options), tmp_path / "checkpoint.pt")
        model_state, optim_state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        set_state_dict(net2, opt2, model_state_dict=model_state, optim_state_dict=optim_state, options=options)

    assert_resumes(rule, base, resume)


@FLAT
@RULE
def test_dcp_save_and_load(rule: Rule, flat: bool, tmp_path: Path, one_process: None) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flat)

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        model_state, optim_state = get_state_dict(net, opt, options=options)
        dcp.save({"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path / "checkpoint")
        model_state, optim_state = get_state_dict(net2, opt2, options=options)
        dcp.load(template := {"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path / "checkpoint")
        set_state_dict(
            net2, opt2, model_state_dict=template["model"], optim_state_dict=template["optim"], options=options
        )

    assert_resumes(rule, "Adam", resume)


# ---- unusual bases


@RULE
def test_zero_redundancy_optimizer(rule: Rule, one_process: None) -> None:
    def make(net: nn.Module) -> torch.optim.Optimizer:
        return ZeroRedundancyOptimizer(net.parameters(), optimizer_class=torch.optim.Adam, lr=LEARNING_RATE)

    if isinstance(rule, AngleBisector):
        net = network()
        opt = MultiObjectiveGradient(make(net), rule)
        train(net, opt, slice(None), halving(opt).step)
        assert_same(net.state_dict(), by_hand(scheduler=halving))

    def resume(net: nn.Module, opt: Any, net2: nn.Module, opt2: Any) -> None:
        opt.base.consolidate_state_dict()
        net2.load_state_dict(net.state_dict())
        opt2.load_state_dict(copy.deepcopy(opt.state_dict()))

    assert_resumes(rule, "", resume, make)


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


# ---- activation checkpoints, compiled modules, model.zero_grad(), validation


class Checkpointed(nn.Module):
    def __init__(self, net: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x: Tensor) -> Tensor:
        if self.reentrant:
            x = x.requires_grad_()  # a reentrant checkpoint gives no gradient at all without one at its input
        return checkpoint(self.net, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_activation_checkpoints_under_join(reentrant: bool, accumulate: int) -> None:
    net = network()
    opt = wrapped(net)
    for i, (x, y) in enumerate(batches()):
        opt.join(losses(Checkpointed(net, reentrant), x, y)).backward()
        if (i + 1) % accumulate == 0:
            opt.step()
            opt.zero_grad()
    assert_same(net.state_dict(), by_hand(accumulate=accumulate, divide=False))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_model_zero_grad_in_place_of_the_optimizer_s_under_join(accumulate: int, set_to_none: bool) -> None:
    net = network()
    opt = wrapped(net, base=torch.optim.SGD)
    for i, batch in enumerate(batches()):
        (opt.join(losses(net, *batch)) / accumulate).backward()
        if (i + 1) % accumulate == 0:
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            net.zero_grad(set_to_none=set_to_none)
    assert_same(net.state_dict(), by_hand(accumulate=accumulate, clip_norm=0.5, base=torch.optim.SGD))


HOW = pytest.mark.parametrize("how", ["backward", "join"])


def gather(opt: MultiObjectiveGradient, how: str, values: dict[str, Tensor]) -> None:
    opt.join(values).backward() if how == "join" else opt.backward(values)


@pytest.fixture
def compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@HOW
def test_a_compiled_module(how: str, compiler: None) -> None:
    net = network()
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    opt = wrapped(net)
    for batch in batches():
        opt.zero_grad()
        gather(opt, how, losses(compiled, *batch))
        opt.step()
    assert_same(net.state_dict(), by_hand())


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(nn.Linear(3, 8), nn.Softplus(), nn.Linear(8, 8), nn.Tanh())
        self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"a": (self.a(features) - y).square().mean(), "b": 30 * (self.b(features) + y).abs().mean()}


@HOW
@pytest.mark.parametrize("what", ["trunk", "model"])
def test_a_compiled_trunk_with_two_heads(what: str, how: str, compiler: None) -> None:
    """Both losses walk one compiled backward, the first with retain_graph: the compiler must hear of it in time."""

    def run(compiled: bool) -> dict[str, Tensor]:
        model = TwoHeads()
        if compiled and what == "trunk":
            model.trunk = torch.compile(model.trunk, backend="aot_eager", fullgraph=True)
        function = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled and what == "model" else model
        opt = wrapped(model)
        for batch in batches()[:4]:
            opt.zero_grad()
            gather(opt, how, function(*batch))
            opt.step()
        return {name.replace("_orig_mod.", ""): p for name, p in model.state_dict().items()}

    assert_same(run(True), run(False))


@HOW
def test_a_trunk_that_was_compiled_for_a_single_walk_says_what_to_set(how: str, compiler: None) -> None:
    """The compiler reuses ("donates") saved buffers once it has seen a backward without retain_graph."""
    model = TwoHeads()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    batch = batches()[0]
    torch.stack(list(compiled(*batch).values())).sum().backward()  # a plain warm-up step
    opt = wrapped(model)
    with pytest.raises(RuntimeError, match="donated_buffer=False"):
        gather(opt, how, compiled(*batch))

    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        torch.stack(list(compiled(*batch).values())).sum().backward()
        gather(opt, how, compiled(*batch))
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    opt.zero_grad()
    opt.backward(model(*batch))
    assert_same(found, {name: p.grad for name, p in model.named_parameters()})


def test_functions_of_the_parameters_need_no_enabled_gradients() -> None:
    """Validation runs under no_grad; what the functional forms differentiate, they record themselves."""
    net = network()
    x, y = batches()[0]
    params = {name: p.detach() for name, p in net.named_parameters()}

    def of_params(params: dict[str, Tensor]) -> dict[str, Tensor]:
        return losses(lambda x: torch.func.functional_call(net, params, (x,)), x, y)

    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), AngleBisector())
    opt.backward(losses(net, x, y))
    expected = {name: p.grad.clone() for name, p in net.named_parameters()}
    opt.zero_grad()
    with torch.no_grad():
        direction, _ = combined_grad(of_params, AngleBisector())(params)
        opt.backward(of_params)
    assert_same(direction, expected)
    assert_same({name: p.grad for name, p in net.named_parameters()}, expected)
