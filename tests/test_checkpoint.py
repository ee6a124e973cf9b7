"""A run that is saved and resumed, by whatever means, goes on bit for bit."""

import copy
import io
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AngleBisector, Sum


@dataclass(frozen=True)
class RunningNorms:
    """A stateful rule: 1 over a running mean of the norms."""

    decay: float = 0.7

    def init(self, gram, /):
        return {"mean": torch.zeros_like(gram.diagonal()), "count": torch.zeros((), dtype=torch.int64)}

    def update(self, gram, state, /):
        mean = self.decay * state["mean"] + (1 - self.decay) * gram.diagonal().sqrt()
        return 1 / mean, {"mean": mean, "count": state["count"] + 1}


@dataclass(frozen=True)
class Drawn:
    """A rule of the `step` signal: weights drawn anew each step, the same ones in a run that is resumed."""

    def __call__(self, gram, /, *, step):
        return 1 + torch.sin(1 + 3 * step + torch.arange(len(gram))).to(gram)


@dataclass(frozen=True)
class Both:
    """State and step at once."""

    def init(self, gram, /):
        return {"last": torch.ones_like(gram[0])}

    def update(self, gram, state, /, *, step, names):
        weights = state["last"] / (1 + step) + gram.diagonal() * 0
        return weights, {"last": weights + 1}


RULES = [Sum(), AngleBisector(), RunningNorms(), Drawn(), Both()]
DATA = torch.randn(12, 5, 3, generator=torch.Generator().manual_seed(0))


def start(rule, make=torch.optim.Adam, **options):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    return net, MultiObjectiveGradient(make(net.parameters(), lr=0.05), rule, **options)


def train(net, opt, steps):
    for k in steps:
        opt.zero_grad()
        for x in DATA[2 * k : 2 * k + 2]:
            out = net(x)
            fit = {"fit": out[:, 0].square().mean(), "size": out[:, 1].exp().mean()}
            # a penalty that is due every third step: another set of names, with a state of its own
            opt.backward(fit | ({"penalty": net[0].weight.square().sum()} if k % 3 == 2 else {}))
        opt.step()


def through_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def by_state_dict(net, opt, rule):
    net_state, opt_state = through_file(net.state_dict()), through_file(opt.state_dict())
    net, opt = start(rule)
    net.load_state_dict(net_state)
    opt.load_state_dict(opt_state)
    return net, opt


def by_keyword(net, opt, rule):
    """As torch.distributed.checkpoint loads it."""
    state = copy.deepcopy(opt.state_dict())  # torch's load_state_dict takes the tensors themselves
    resumed = copy.deepcopy(net)
    opt = MultiObjectiveGradient(torch.optim.Adam(resumed.parameters(), lr=1.0), rule)
    opt.load_state_dict(state_dict=state)
    return resumed, opt


def by_pickle(net, opt, rule):
    return pickle.loads(pickle.dumps((net, opt)))


def by_deepcopy(net, opt, rule):
    return copy.deepcopy((net, opt))


def by_torch_save(net, opt, rule):
    file = io.BytesIO()
    torch.save((net, opt), file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("resume", [by_state_dict, by_keyword, by_pickle, by_deepcopy, by_torch_save])
def test_a_resumed_run_goes_on_bit_for_bit(rule, resume):
    net, opt = start(rule)
    train(net, opt, range(3))
    again, resumed = resume(net, opt, rule)
    assert {id(p) for group in resumed.param_groups for p in group["params"]} == {id(p) for p in again.parameters()}
    train(net, opt, range(3, 6))
    train(again, resumed, range(3, 6))
    for p, q in zip(net.parameters(), again.parameters(), strict=True):
        assert p is not q
        assert torch.equal(p, q)
    for name in ("losses", "gram", "weights"):
        assert torch.equal(getattr(opt.last, name), getattr(resumed.last, name))


@pytest.mark.parametrize("rule", [RunningNorms(), Drawn(), Both()], ids=lambda rule: type(rule).__name__)
def test_the_rule_s_state_is_what_the_resumed_run_needs(rule):
    """Without it the run above would differ: a checkpoint that lost it would be noticed."""
    net, opt = start(rule)
    train(net, opt, range(3))
    state = opt.state_dict()
    forgetful = copy.deepcopy(net)
    other = MultiObjectiveGradient(torch.optim.Adam(forgetful.parameters(), lr=0.05), rule)
    groups = [{k: v for k, v in group.items() if k != "rule_state"} for group in state["param_groups"]]
    other.load_state_dict(state | {"param_groups": groups})
    train(net, opt, range(3, 4))
    train(forgetful, other, range(3, 4))
    assert not torch.equal(opt.last.weights, other.last.weights)


@pytest.mark.parametrize("rule", [Sum(), RunningNorms(), Both()], ids=lambda rule: type(rule).__name__)
def test_the_checkpoint_loads_into_the_bare_base_and_back(rule):
    net, opt = start(rule)
    train(net, opt, range(3))
    bare_net = copy.deepcopy(net)
    base = torch.optim.Adam(bare_net.parameters(), lr=1.0)
    base.load_state_dict(through_file(opt.state_dict()))
    for one in (opt.base, base):
        params = one.param_groups[0]["params"]
        for p in params:
            p.grad = torch.ones_like(p)
        one.step()
    for p, q in zip(net.parameters(), bare_net.parameters(), strict=True):
        assert torch.equal(p, q)

    # and a checkpoint of a bare optimizer, which knows of no rule
    twin, fresh = start(rule)
    twin.load_state_dict(bare_net.state_dict())
    plain = torch.optim.Adam(bare_net.parameters(), lr=1.0)
    for p in bare_net.parameters():
        p.grad = torch.ones_like(p)
    plain.step()
    fresh.load_state_dict(through_file(plain.state_dict()))
    assert fresh.param_groups[0]["lr"] == 1.0
    assert len(fresh.state) == len(list(twin.parameters()))
    train(twin, fresh, range(2))


def test_a_state_dict_is_the_bare_base_s_unless_the_rule_remembers():
    net, opt = start(AngleBisector())
    train(net, opt, range(2))
    assert opt.state_dict().keys() == opt.base.state_dict().keys()
    assert opt.state_dict()["param_groups"] == opt.base.state_dict()["param_groups"]
    assert "rule_state" not in opt.param_groups[0]


def test_state_is_proposed_by_backward_and_committed_by_step():
    net, opt = start(RunningNorms())
    train(net, opt, range(1))
    x = DATA[0]

    def backward():
        out = net(x)
        return opt.backward({"fit": out[:, 0].square().mean(), "size": out[:, 1].exp().mean()})

    saved = copy.deepcopy(opt.state_dict())
    opt.zero_grad()
    first = backward()
    opt.zero_grad()
    second = backward()
    assert torch.equal(first.weights, second.weights)  # the step that was given up left no trace
    assert str(opt.state_dict()) == str(saved)
    opt.step()
    assert str(opt.state_dict()["param_groups"]) != str(saved["param_groups"])
    committed = str(opt.state_dict()["param_groups"])
    opt.step()  # nothing new to commit
    assert str(opt.state_dict()["param_groups"]) == committed


def test_a_step_that_the_scaler_skips_commits_no_state():
    net, opt = start(RunningNorms())
    train(net, opt, range(1))
    saved = str(opt.state_dict()["param_groups"])
    scaler = torch.amp.GradScaler("cpu")
    opt.zero_grad()
    out = net(DATA[0])
    opt.backward({"fit": out[:, 0].mean() * torch.inf, "size": out[:, 1].mean()}, scaler=scaler)
    scaler.step(opt)
    scaler.update()
    assert str(opt.state_dict()["param_groups"]) == saved


def test_loading_discards_the_state_that_a_backward_had_proposed():
    net, opt = start(RunningNorms())
    train(net, opt, range(1))
    saved = copy.deepcopy(opt.state_dict())
    opt.zero_grad()
    out = net(DATA[0])
    opt.backward({"fit": out[:, 0].square().mean(), "size": out[:, 1].exp().mean()})
    opt.load_state_dict(saved)
    opt.zero_grad()
    assert str(opt.state_dict()["param_groups"]) == str(saved["param_groups"])


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda groups: groups.append(copy.deepcopy(groups[0])), "as many parameters in each group"),
        (lambda groups: groups[0]["params"].pop(), "as many parameters in each group"),
        (lambda groups: groups[0].update(rule_state='{"cut off'), "rule's state .*cut off"),
        (lambda groups: groups[0].update(rule_state="[1]"), "rule's state .*\\[1\\]"),
        (lambda groups: groups[0].update(rule_state='{"a": {"dtype": "int7", "data": 1}}'), "rule's state .*int7"),
    ],
)
def test_a_checkpoint_that_cannot_be_loaded_changes_nothing(spoil, match):
    net, opt = start(RunningNorms())
    train(net, opt, range(2))
    other_net, other = start(RunningNorms())
    train(other_net, other, range(3))
    bad = copy.deepcopy(other.state_dict())
    spoil(bad["param_groups"])
    twin_net, twin = by_deepcopy(net, opt, None)
    with pytest.raises(ValueError, match=match):
        opt.load_state_dict(bad)
    assert str(opt.state_dict()) == str(twin.state_dict())
    train(net, opt, range(2, 4))
    train(twin_net, twin, range(2, 4))
    assert str(opt.state_dict()) == str(twin.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin_net.parameters(), strict=True))


@pytest.mark.parametrize("copied", [by_pickle, by_deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_a_copy_made_between_backward_and_step(copied, accumulate):
    """.grad of a parameter is not copied by either, so the copy begins its step anew, as a bare optimizer's does."""
    net, opt = start(AngleBisector(), accumulate=accumulate)
    out = net(DATA[0])
    opt.backward({"fit": out[:, 0].square().mean(), "size": out[:, 1].exp().mean()})
    expected = [p.grad.clone() for p in net.parameters()]
    again, resumed = copied(net, opt, None)
    assert all(p.grad is None for p in again.parameters())
    out = again(DATA[0])
    resumed.backward({"fit": out[:, 0].square().mean(), "size": out[:, 1].exp().mean()})
    for p, g, q in zip(again.parameters(), expected, net.parameters(), strict=True):
        assert torch.equal(p.grad, g)
        assert p.grad.data_ptr() != q.grad.data_ptr()


@pytest.mark.parametrize("copied", [by_pickle, by_deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_with_a_scheduler_and_hooks_attached(copied):
    """The scheduler's patch of step() holds on to the original, and no optimizer pickles its hooks."""
    net, opt = start(Sum())
    torch.optim.lr_scheduler.StepLR(opt, 1)
    opt.register_step_post_hook(lambda *_: pytest.fail("the original's hook ran for the copy"))
    again, resumed = copied(net, opt, None)
    train(again, resumed, range(1))
    assert not torch.equal(again[0].weight, net[0].weight)
    fired = []
    resumed.register_step_post_hook(lambda *_: fired.append(1))
    resumed.step()
    assert fired == [1]


@pytest.mark.parametrize("copied", [by_pickle, by_deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_made_after_join(copied):
    net, opt = start(Sum())
    opt.join({"a": net(DATA[0]).sum()}).backward()
    again, resumed = copied(net, opt, None)
    train(again, resumed, range(1))
