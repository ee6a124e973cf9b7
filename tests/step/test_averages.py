"""Averages of gradients: proposed by `backward`, kept by the step, saved with the optimizer, otherwise untouched."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradweight import LossBalancer, MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rule import State
from gradweight.rules import CRMOGM, DBMTL, AngleBisector, ConFIG, MConFIG, MoCo, Normalized
from gradweight.step import proposed_averages

from ..rules.averaged_training import NAMES, batch, losses_of, network, parameters, trained, wrapped

RULES = {
    "MConFIG": MConFIG(),
    "MConFIG for Adam": MConFIG(for_adam=True),
    "MoCo": MoCo(),
    "MoCo by loss": MoCo(by_loss=True),
    "DBMTL": DBMTL(),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def snapshot(opt: MultiObjectiveGradient) -> dict[str, Tensor]:
    return {
        f"{i} {key}": value.clone()
        for i, p in enumerate(opt.param_groups[0]["params"])
        for key, value in opt.state.get(p, {}).items()
        if key.startswith(("average", "direction"))
    }


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# ---- kept by the step


@every_rule
def test_only_a_step_keeps_them(rule: Any) -> None:
    net = network()
    opt = wrapped(rule, net)
    for i in (1, 2):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)))
        opt.step()
    before, state = snapshot(opt), copy.deepcopy(opt.param_groups[0]["rule_state"])
    assert len(before) == (16 if getattr(rule, "for_adam", False) else 12)
    opt.zero_grad()
    opt.backward(losses_of(net, batch(3)))
    first = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    opt.zero_grad()  # left out
    with pytest.raises(ValueError, match="due must name losses"):
        opt.backward(losses_of(net, batch(3)), due="d")
    assert same(snapshot(opt), before)
    assert str(opt.param_groups[0]["rule_state"]) == str(state)
    opt.backward(losses_of(net, batch(3)))
    again = [p.grad for p in net.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    opt.step()
    assert not same(snapshot(opt), before)


@every_rule
def test_an_overflow_that_a_scaler_skips_leaves_them(rule: Any) -> None:
    net = network()
    opt = wrapped(rule, net)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for i in (1, 2, 3):
        opt.zero_grad()
        losses = losses_of(net, batch(i))
        if i == 2:
            before, at = snapshot(opt), parameters(net)
            losses["b"] = losses["b"] * torch.inf
        opt.backward(losses, scaler=scaler)
        scaler.step(opt)
        scaler.update()
        if i == 2:
            assert same(snapshot(opt), before)
            assert np.array_equal(parameters(net), at)
    assert all(t.isfinite().all() for t in snapshot(opt).values())
    # the same without scaler, and without the step that was skipped
    other = network()
    plain = wrapped(rule, other)
    for i in (1, 3):
        plain.zero_grad()
        plain.backward(losses_of(other, batch(i)))
        plain.step()
    np.testing.assert_allclose(parameters(net), parameters(other), rtol=1e-12)


@every_rule
@pytest.mark.parametrize("options", [{}, {"accumulate": False}, {"engine": "hooks"}, {"blocks": "layer"}], ids=str)
def test_loss_scale_and_host_factors_are_undone(rule: Any, options: dict[str, Any]) -> None:
    net, other = network(), network()
    opt, plain = wrapped(rule, net, **options), wrapped(rule, other, **options)
    for i in (1, 2, 3):
        opt.zero_grad()
        (opt.join(losses_of(net, batch(i))) * 8).backward()
        plain.zero_grad()
        plain.backward(losses_of(other, batch(i)))
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p.grad, 8 * q.grad if q.grad is not None else None, rtol=1e-12, atol=1e-14)
            p.grad /= 8
        opt.step()
        plain.step()
    np.testing.assert_allclose(parameters(net), parameters(other), rtol=1e-12)


@every_rule
def test_micro_batches_are_the_big_batch(rule: Any) -> None:
    net, other = network(), network()
    opt, whole = wrapped(rule, net), wrapped(rule, other)
    for i in (1, 2, 3):
        opt.zero_grad()
        for part in batch(i).chunk(4):
            opt.backward({name: loss / 4 for name, loss in losses_of(net, part).items()})
        opt.step()
        whole.zero_grad()
        whole.backward(losses_of(other, batch(i)))
        whole.step()
    np.testing.assert_allclose(parameters(net), parameters(other), rtol=1e-10)
    for key, value in snapshot(opt).items():
        torch.testing.assert_close(value, snapshot(whole)[key], rtol=1e-10, atol=1e-12)


@every_rule
def test_in_place_and_kept_rows_give_the_same(rule: Any) -> None:
    dues = [None, ["a"], ["b", "c"], None]
    np.testing.assert_array_equal(trained(rule, dues, accumulate=False), trained(rule, dues))


def test_the_same_losses_are_due_in_all_micro_batches_of_a_step() -> None:
    net = network()
    opt = wrapped(MConFIG(), net)
    opt.backward(losses_of(net, batch(1)), due="a")
    with pytest.raises(ValueError, match=r"micro-batches of one step need the same losses: \['a'\] before, \['b'\]"):
        opt.backward(losses_of(net, batch(2)), due="b")
    opt.backward(losses_of(net, batch(2)), due="a")


def test_due_through_join() -> None:
    net = network()
    opt = wrapped(MConFIG(), net)
    for i, name in enumerate(NAMES * 2, 1):
        opt.zero_grad()
        value = opt.join(losses_of(net, batch(i)), due=name)
        assert value.item() == pytest.approx(losses_of(net, batch(i))[name].item())
        value.backward()  # type: ignore[no-untyped-call]
        opt.step()
    np.testing.assert_allclose(parameters(net), trained(MConFIG(), [[n] for n in NAMES * 2]), rtol=1e-12)


# ---- blocks


@pytest.mark.parametrize("rule", [MConFIG(), MoCo(by_loss=True), DBMTL()], ids=lambda r: type(r).__name__)
def test_each_block_has_its_own_and_what_is_left_alone_has_none(rule: Any) -> None:
    """As one optimizer for the block by itself, and a plain one for the rest."""
    net, apart = network(), network()
    opt = wrapped(rule, net, trunk=net[0])  # type: ignore[index]
    trunk = MultiObjectiveGradient(torch.optim.SGD(apart[0].named_parameters(), lr=0.1), rule)  # type: ignore[index]
    head = torch.optim.SGD(apart[2].parameters(), lr=0.1)  # type: ignore[index]
    for i in range(1, 5):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)))
        opt.step()
        losses = losses_of(apart, batch(i))
        trunk.zero_grad()
        trunk.backward(losses, retain_graph=True)
        grads = torch.autograd.grad(sum(losses.values()), list(apart[2].parameters()))  # type: ignore[arg-type,index]
        for p, grad in zip(apart[2].parameters(), grads, strict=True):  # type: ignore[index]
            p.grad = grad
        trunk.step()
        head.step()
    np.testing.assert_allclose(parameters(net), parameters(apart), rtol=1e-10)
    assert {key.split()[0] for key in snapshot(opt)} == {"0", "1"}


def test_a_block_that_no_loss_which_was_due_has_reached() -> None:
    """The head of a task whose turn is later has neither averages nor a direction until then."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"trunk": nn.Linear(3, 4), "a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}).double()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.named_parameters(), lr=0.1), MConFIG(), blocks="layer")
    for i, due in enumerate("aabab"):
        features, before = net["trunk"](batch(i)).tanh(), [net[name].weight.detach().clone() for name in "ab"]
        opt.zero_grad()
        opt.backward({name: (net[name](features) - 1).square().mean() for name in "ab"}, due=due)
        opt.step()
        moved = [not torch.equal(weight, net[name].weight) for name, weight in zip("ab", before, strict=True)]
        assert moved == [True, i >= 2]
    assert [len(opt.state[net[name].weight]) for name in ("trunk", "a", "b")] == [2, 1, 1]


# ---- saved


def by_state_dict(net: nn.Module, opt: Any, make: Callable[[nn.Module], Any]) -> tuple[nn.Module, Any]:
    file = io.BytesIO()
    torch.save((net.state_dict(), opt.state_dict()), file)
    file.seek(0)
    model, optim = torch.load(file, weights_only=True)
    net = network()
    net.load_state_dict(model)
    opt = make(net)
    opt.load_state_dict(optim)
    return net, opt


def by_pickle(net: nn.Module, opt: Any, make: Any) -> tuple[nn.Module, Any]:
    found: tuple[nn.Module, Any] = pickle.loads(pickle.dumps((net, opt)))
    return found


def by_deepcopy(net: nn.Module, opt: Any, make: Any) -> tuple[nn.Module, Any]:
    return copy.deepcopy((net, opt))


@every_rule
@pytest.mark.parametrize("resume", [by_state_dict, by_pickle, by_deepcopy])
def test_a_resumed_run_goes_on_bit_for_bit(rule: Any, resume: Any) -> None:
    def make(net: nn.Module) -> MultiObjectiveGradient:
        return MultiObjectiveGradient(torch.optim.Adam(net.named_parameters(), lr=0.05), rule)

    def train(net: nn.Module, opt: MultiObjectiveGradient, steps: range) -> None:
        for i in steps:
            opt.zero_grad()
            opt.backward(losses_of(net, batch(i)), due=NAMES[i % 3] if isinstance(rule, MConFIG) else None)
            opt.step()

    net = network()
    opt = make(net)
    train(net, opt, range(4))
    again, resumed = resume(net, opt, make)
    train(again, resumed, range(4, 8))
    without, forgetful = resume(net, opt, make)
    for state in forgetful.state.values():
        for key in [key for key in state if key.startswith("average")]:
            state[key].zero_()
    train(without, forgetful, range(4, 8))
    train(net, opt, range(4, 8))
    assert np.array_equal(parameters(again), parameters(net))
    assert not np.array_equal(parameters(without), parameters(net))  # the test would notice if they were lost


def test_a_checkpoint_loads_into_the_bare_base_and_steps() -> None:
    net = network()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters()), MoCo())
    opt.backward(losses_of(net, batch(1)))
    opt.step()
    base = torch.optim.Adam(net.parameters())
    base.load_state_dict(opt.state_dict())
    base.step()


def test_a_state_without_its_averages_is_an_error_that_says_what_to_do() -> None:
    net = network()
    opt = wrapped(MoCo(), net)
    opt.backward(losses_of(net, batch(1)))
    opt.step()
    lost = opt.state_dict()
    lost["state"] = {}
    fresh = wrapped(MoCo(), net)
    fresh.load_state_dict(lost)
    before = parameters(net)
    with pytest.raises(
        RuntimeError, match=r"state of MoCo for the losses \['a', 'b', 'c'\] is there, .* take one step"
    ):
        fresh.backward(losses_of(net, batch(2)))
    assert np.array_equal(parameters(net), before)


def test_an_optimizer_that_makes_its_state_later_still_does() -> None:
    """Adam looks whether there is any: a parameter that is frozen for the first step must have none."""
    net = network()
    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters()), MConFIG())
    losses = losses_of(net, batch(1))
    opt.backward(losses)
    net[0].weight.grad = None  # type: ignore[index,union-attr]
    opt.step()
    opt.zero_grad()
    opt.backward(losses_of(net, batch(2)))
    opt.step()
    assert "exp_avg" in opt.state[net[0].weight]  # type: ignore[index]


def test_several_bases() -> None:
    net = network()
    bases = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (net[0], net[2])]  # type: ignore[index]
    opt = MultiObjectiveGradient(bases, MConFIG())
    for i, due in enumerate(NAMES, 1):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)), due=due)
        assert len(opt.state) == 4 * (i > 1)  # a backward makes no entries
        opt.step()
    np.testing.assert_array_equal(parameters(net), trained(MConFIG(), [[due] for due in NAMES]))
    assert all(len(state) == 3 for base in bases for state in base.state.values())


def two_bases(net: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(net[2].parameters()), torch.optim.SGD(net[0].parameters(), lr=0.1)]  # type: ignore[index]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_several_bases_that_a_host_steps_one_by_one(order: tuple[int, int]) -> None:
    """Adam finds no state but its own before its first step, and each keeps what its step has followed."""
    net, other = network(), network()
    bases = two_bases(net)
    opt, whole = MultiObjectiveGradient(bases, MoCo()), MultiObjectiveGradient(two_bases(other), MoCo())
    for i in range(3):
        for each, of in ((opt, net), (whole, other)):
            each.zero_grad()
            each.backward(losses_of(of, batch(i)))
        for k in order:
            bases[k].step()
        whole.step()
    assert np.array_equal(parameters(net), parameters(other))
    # what is not stepped is not remembered
    before = [[t.clone() for t in base.state[net[i].weight].values()] for base, i in zip(bases, (2, 0), strict=True)]  # type: ignore[index]
    opt.zero_grad()
    opt.backward(losses_of(net, batch(3)))
    bases[1].step()
    after = [list(base.state[net[i].weight].values()) for base, i in zip(bases, (2, 0), strict=True)]  # type: ignore[index]
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))


@every_rule
@pytest.mark.parametrize("how", ["hook of the base", "hook of the wrapper", "mark_step"])
def test_gradients_that_are_cleared_as_soon_as_they_were_followed(rule: Any, how: str) -> None:
    net = network()
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    if how == "hook of the base":
        base.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    opt = MultiObjectiveGradient(base, rule)
    if how == "hook of the wrapper":
        opt.register_step_post_hook(lambda optimizer, *_: optimizer.zero_grad())
    another = torch.optim.SGD(net.parameters(), lr=0.1)
    for i in (1, 2, 3):
        opt.backward(losses_of(net, batch(i)))
        if how == "mark_step":
            another.step()
            net.zero_grad()
            opt.mark_step()
        else:
            opt.step()
    np.testing.assert_array_equal(parameters(net), trained(rule, [None] * 3))


def test_on_a_gpu_the_tensors_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposed_averages, "is_launch_bound", lambda device: True)
    net = network()
    opt = wrapped(MoCo(), net)
    places = []
    for i in (1, 2):
        opt.zero_grad()
        opt.backward(losses_of(net, batch(i)))
        opt.step()
        places.append([t.data_ptr() for state in opt.state.values() for t in state.values() if isinstance(t, Tensor)])
    assert places[0] == places[1]
    np.testing.assert_array_equal(parameters(net), trained(MoCo(), [None, None]))


# ---- what does not go


@pytest.mark.parametrize("options", [{"engine": "gram"}, {"refresh_every": 2}, {"reduce": "scatter"}], ids=str)
def test_settings_without_the_gradient_of_each_loss_on_every_step(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"MoCo\(.* asks for averages of the gradients, which need"):
        wrapped(MoCo(), network(), **options)


def test_who_keeps_no_averages_says_so() -> None:
    net = network()
    for build in (
        lambda: LossBalancer(MoCo(), net.parameters()),
        lambda: CRMOGM(MConFIG()),
        lambda: Normalized(DBMTL()),
        lambda: combined_grad(lambda p: p, MoCo())({}),  # type: ignore[arg-type,return-value]
    ):
        with pytest.raises(
            TypeError, match=r"keeps no averages of the gradients .* which (MoCo|MConFIG|DBMTL) asks for"
        ):
            build()  # type: ignore[no-untyped-call]
    LossBalancer(DBMTL(beta=0.0), net.parameters())
    CRMOGM(DBMTL(beta=0.0))


def test_a_shared_tensor_has_no_average() -> None:
    net = network()
    opt = wrapped(MoCo(), net)
    features = net[0](batch(1))  # type: ignore[index]
    with pytest.raises(ValueError, match="shared= shows the rule gradients at a tensor of this batch"):
        opt.backward({"a": features.sum()}, shared=features)


@pytest.mark.parametrize(
    ("rule", "losses", "due", "error", "text"),
    [
        (AngleBisector(), {"a": 0}, "a", TypeError, "takes one that asks for averages of them"),
        (ConFIG(), {"a": 0}, "a", TypeError, "takes one that asks for averages of them"),
        (DBMTL(beta=0.0), {"a": 0}, "a", TypeError, "takes one that asks for averages of them"),
        (MConFIG(), {"a": 0}, "b", ValueError, r"due must name losses of this step, \['a'\]"),
        (MConFIG(), {"a": 0}, [], ValueError, r"due must name losses of this step, \['a'\]"),
        (MConFIG(), lambda p: p, "a", TypeError, "due='a' needs a mapping of all losses by name; got function"),
        (MConFIG(), {"a": torch.ones(3)}, "a", ValueError, r"due= needs scalar losses, .*; \['a'\] are vectors"),
    ],
)
def test_due_that_has_no_meaning(rule: Any, losses: Any, due: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        wrapped(rule, network()).backward(losses, due=due)


class Broken:
    """An averaging rule whose factors, or whose declaration, are wrong."""

    def __init__(self, answer: Callable[[State], Any]) -> None:
        self.answer = answer

    def init(self, gram: Tensor) -> State:
        return {"count": gram[0] * 0}

    def average(self, state: State, /, *, due: Tensor) -> Any:
        return self.answer(state)

    def update(self, gram: Tensor, state: State, /) -> tuple[Tensor, State]:
        return gram[0] * 0 + 1, state


class Asks(Broken):
    def average(self, state: State, /, *, due: Tensor, gram: Tensor) -> Any:
        return None


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda s: None, r"average\(\) of Broken must return \(keep, scale, state\); got NoneType"),
        (lambda s: (0.5, s["count"], s), r"average\(\) of Broken must return weights as a Tensor; got float"),
        (lambda s: (s["count"], s["count"], {"n": 1}), r"average\(\) of Broken must return a state that is a dict"),
    ],
)
def test_a_rule_that_answers_otherwise(answer: Any, text: str) -> None:
    net = network()
    with pytest.raises(TypeError, match=text):
        wrapped(Broken(answer), net).backward(losses_of(net, batch(1)))
    assert all(p.grad is None for p in net.parameters())


def test_a_rule_that_asks_for_something_else() -> None:
    with pytest.raises(
        TypeError, match=r"average\(\) of Asks may have the keyword-only parameters .*; it has \['due', 'g"
    ):
        wrapped(Asks(lambda s: None), network())
