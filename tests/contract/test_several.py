"""Several base optimizers under one rule: each steps its own parameters, and hosts see one optimizer."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer, lr_scheduler

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector

from ..hosts.problem import SlowNorms, assert_same, batches, bisector, losses, network
from ..optimizers import assert_resumes_bit_for_bit, train


def pair(net: nn.Module) -> list[Optimizer]:
    """Muon for matrices, which are all that it takes, AdamW for the rest."""
    matrices = [p for p in net.parameters() if p.ndim == 2]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.9),
        torch.optim.AdamW([p for p in net.parameters() if p.ndim != 2], lr=0.05),
    ]


def wrap(net: nn.Module, **options: Any) -> MultiObjectiveGradient:
    return MultiObjectiveGradient(pair(net), AngleBisector(), **options)


def by_hand(after: Callable[[list[Optimizer]], Callable[[], object]] = lambda _: lambda: None) -> dict[str, Tensor]:
    """One Gram matrix over all parameters, and a step of each optimizer: nothing of the package is used."""
    net = network()
    params = list(net.parameters())
    optimizers = pair(net)
    finish = after(optimizers)
    for x, y in batches():
        values = losses(net, x, y)
        rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in values.values()]
        for p, g in zip(params, bisector(rows), strict=True):
            p.grad = g
        for optimizer in optimizers:
            optimizer.step()
        finish()
    return net.state_dict()


def test_one_combination_and_a_step_of_each() -> None:
    net = network()
    train(net, wrap(net), slice(None))
    # Muon's Newton-Schulz iteration works in bfloat16, and rounds what differs in the last bit of float32
    assert_same(net.state_dict(), by_hand(), tolerance=2e-3)


@pytest.mark.parametrize("attached", ["to all", "to each"])
def test_schedulers(attached: str) -> None:
    def of_each(optimizers: list[Optimizer]) -> Callable[[], object]:
        schedules = [lr_scheduler.StepLR(optimizer, 2, 0.5) for optimizer in optimizers]
        return lambda: [schedule.step() for schedule in schedules]

    net = network()
    opt = wrap(net)
    after = of_each([opt] if attached == "to all" else opt.base.optimizers)
    train(net, opt, slice(None), after)
    assert [group["lr"] for group in opt.param_groups] == [0.02 / 64, 0.05 / 64]
    assert_same(net.state_dict(), by_hand(of_each), tolerance=2e-3)  # as above


@pytest.mark.parametrize("checkpoint", ["plain", "distributed"])
def test_a_resumed_run_goes_on_bit_for_bit(checkpoint: str) -> None:
    def wrapped(net: nn.Module) -> MultiObjectiveGradient:
        return MultiObjectiveGradient(pair(net), SlowNorms())

    if checkpoint == "plain":
        assert_resumes_bit_for_bit(network, wrapped, lambda net, opt, a, b: train(net, opt, slice(a, b)), 5, 9)
        return
    net = network()
    opt = wrapped(net)
    train(net, opt, slice(5))
    saved = copy.deepcopy((net.state_dict(), get_optimizer_state_dict(net, opt)))
    train(net, opt, slice(5, 9))
    again = network()
    again.load_state_dict(saved[0])
    resumed = wrapped(again)
    set_optimizer_state_dict(again, resumed, saved[1])
    train(again, resumed, slice(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_what_is_loaded_is_in_the_bare_optimizers() -> None:
    net = network()
    opt = wrap(net)
    train(net, opt, slice(3))
    fresh = network()
    muon, adamw = pair(fresh)
    MultiObjectiveGradient([muon, adamw], AngleBisector()).load_state_dict(opt.state_dict())
    for bare, trained in zip((muon, adamw), opt.base.optimizers, strict=True):
        found, expected = bare.state_dict(), trained.state_dict()
        assert found["param_groups"] == expected["param_groups"]
        assert found["state"].keys() == expected["state"].keys() != set()
        for i, state in expected["state"].items():
            assert all(torch.equal(found["state"][i][key], value) for key, value in state.items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_trains_as_the_original(copied: Callable[[Any], Any]) -> None:
    net = network()
    opt = wrap(net)
    train(net, opt, slice(2))
    again, other = copied((net, opt))
    for each in ((net, opt), (again, other)):
        train(*each, slice(2, 4))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), again.parameters(), strict=True))


def test_an_overflow_skips_the_step_of_all() -> None:
    net = network()
    opt = wrap(net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before = copy.deepcopy(net.state_dict())
    for factor, moved in ((torch.inf, False), (1.0, True)):
        opt.zero_grad()
        values = losses(net, *batches()[0])
        opt.backward(values | {"size": factor * values["size"]}, scaler=scaler)
        scaler.step(opt)
        scaler.update()
        assert [not torch.equal(before[name], p) for name, p in net.state_dict().items()] == [moved] * len(before)
    opt.zero_grad()
    opt.backward(losses(net, *batches()[0]), scaler=scaler)
    scaler.unscale_(opt)
    scaler.unscale_(opt.base.optimizers[1])
    with pytest.raises(RuntimeError, match="base optimizer as well as the wrapper"):
        opt.step()


def test_a_closure_is_evaluated_once() -> None:
    net = network()
    opt = wrap(net)
    calls = []

    def closure() -> float:
        calls.append(1)
        opt.zero_grad()
        return float(opt.backward(losses(net, *batches()[0])).losses.sum())

    assert opt.step(closure) > 0
    assert len(calls) == 1
    direct = network()
    train(direct, wrap(direct), slice(1))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), direct.parameters(), strict=True))


def test_states_are_read_and_written_where_they_belong() -> None:
    net = network()
    opt = wrap(net)
    train(net, opt, slice(1))
    assert len(opt.state) == len(list(opt.state)) == 4
    for p, state in opt.state.items():  # as frameworks move states to a device
        opt.state[p] = {key: value.clone() for key, value in state.items()}
    muon, adamw = opt.base.optimizers
    assert [len(muon.state), len(adamw.state)] == [2, 2]
    stranger = torch.ones(1)
    assert stranger not in opt.state
    with pytest.raises(KeyError):
        opt.state[stranger] = {}


def test_hooks_run_once_for_each_optimizer_and_once_for_all() -> None:
    net = network()
    opt = wrap(net)
    ran = []
    for name, optimizer in zip("wmab", [opt, *opt.base.optimizers, opt.base], strict=True):
        optimizer.register_step_post_hook(lambda *_, name=name: ran.append(name))
    train(net, opt, slice(1))
    assert ran == ["m", "a", "b", "w"]


def test_bases_that_cannot_be_one() -> None:
    net = network()
    muon, adamw = pair(net)
    with pytest.raises(ValueError, match=r"shape \(8, 3\) is in Muon and in SGD"):
        MultiObjectiveGradient([muon, adamw, torch.optim.SGD(net.parameters())], AngleBisector())
    with pytest.raises(ValueError, match="got an empty one"):
        MultiObjectiveGradient([], AngleBisector())
    with pytest.raises(TypeError, match="got LBFGS"):
        MultiObjectiveGradient([muon, torch.optim.LBFGS([nn.Parameter(torch.ones(1))])], AngleBisector())
    opt = MultiObjectiveGradient([muon, adamw], AngleBisector())
    with pytest.raises(TypeError, match="call it on that base"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    adamw.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    assert len(opt.param_groups) == 3


# ---- bases whose state dicts have more, or another form


class Slow(torch.optim.SGD):
    """An optimizer with something beside its parameters' states, as lookahead and warm-up counters are."""

    taken = 0

    def step(self, closure: Any = None) -> Any:
        self.taken += 1
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.taken = state_dict["taken"]


class Container(Optimizer):
    """An optimizer around others whose state dict is a list of theirs."""

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([p for o in optimizers for g in o.param_groups for p in g["params"]], {})
        self.param_groups = [group for o in optimizers for group in o.param_groups]

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(*args, **kwargs)

    def step(self, closure: Any = None) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


class Flat(Container):
    """The same with one flat mapping from parameter and name to value, in which there is no place for a dict."""

    def state_dict(self) -> dict[str, Any]:
        flat = {}
        for i, optimizer in enumerate(self.optimizers):
            state_dict = optimizer.state_dict()
            flat |= {f"{i}.state.{j}.{key}": v for j, s in state_dict["state"].items() for key, v in s.items()}
            groups = enumerate(state_dict["param_groups"])
            flat |= {f"{i}.group.{j}.{key}": v for j, group in groups for key, v in group.items()}
        assert not any(isinstance(value, dict) for value in flat.values())
        return flat

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for i, optimizer in enumerate(self.optimizers):
            own = optimizer.state_dict()
            groups = [
                {key: state_dict[f"{i}.group.{j}.{key}"] for key in group}
                for j, group in enumerate(own["param_groups"])
            ]
            states: dict[int, dict[str, Any]] = {}
            for key, value in state_dict.items():
                if key.startswith(f"{i}.state."):
                    number, _, name = key.removeprefix(f"{i}.state.").partition(".")
                    states.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


BASES: dict[str, Callable[[nn.Module], Any]] = {
    "a container": lambda net: Container(pair(net)),
    "a flat container": lambda net: Flat(pair(net)),
    "a container beside another": lambda net: [Container(pair(net)[:1]), pair(net)[1]],
    "a count beside the states": lambda net: [
        pair(net)[0],
        Slow([p for p in net.parameters() if p.ndim != 2], lr=0.05, momentum=0.9),
    ],
}


@pytest.mark.parametrize("kind", BASES)
def test_state_dicts_of_other_forms_resume(kind: str) -> None:
    assert_resumes_bit_for_bit(
        network,
        lambda net: MultiObjectiveGradient(BASES[kind](net), SlowNorms()),
        lambda net, opt, a, b: train(net, opt, slice(a, b)),
        5,
        9,
    )


def test_what_is_beside_the_states_is_loaded_and_what_lacks_is_named() -> None:
    net = network()
    opt = MultiObjectiveGradient(BASES["a count beside the states"](net), AngleBisector())
    train(net, opt, slice(3))
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    fresh = MultiObjectiveGradient(BASES["a count beside the states"](network()), AngleBisector())
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert fresh.base.optimizers[1].taken == 3
    container = MultiObjectiveGradient(Container(pair(net)), AngleBisector())
    with pytest.raises(ValueError, match=r"got no \['optimizers'\] among \['other'\]"):
        container.load_state_dict({"other": 1})
