"""What is asked of a base, and what a base may leave to be desired."""

from __future__ import annotations

import copy
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import DWA, Sum, UPGrad


class WithoutArgument(torch.optim.SGD):
    """As some libraries have it, whose constructor says once and for all how gradients are cleared."""

    def zero_grad(self) -> None:  # type: ignore[override]
        super().zero_grad(set_to_none=True)


class AnyArgument(torch.optim.SGD):
    def zero_grad(self, *args: Any) -> None:  # type: ignore[override]
        super().zero_grad(*args)


class ByKeyword(torch.optim.SGD):
    def zero_grad(self, *, foreach: bool = False) -> None:  # type: ignore[override]
        super().zero_grad()


@pytest.mark.parametrize("kind", [WithoutArgument, AnyArgument, ByKeyword])
def test_a_base_whose_zero_grad_takes_no_argument(kind: type[torch.optim.SGD]) -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(kind([w], lr=0.1), Sum())
    for _ in range(2):
        opt.zero_grad()
        assert w.grad is None
        opt.backward({"a": w.sum()})
        assert w.grad.tolist() == [1, 1]


def test_an_optimizer_that_accelerate_has_prepared() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    prepared = accelerator.prepare(torch.optim.Adam([nn.Parameter(torch.ones(2))]))
    with pytest.raises(TypeError, match="wrap first, and prepare the wrapper"):
        MultiObjectiveGradient(prepared, Sum())


def test_names_that_clash() -> None:
    """Torch lets two modules' names clash; who asks for names is told."""
    a, b = nn.Linear(2, 1), nn.Linear(2, 1)
    named = itertools.chain(a.named_parameters(), b.named_parameters())
    opt = MultiObjectiveGradient(torch.optim.SGD(named, lr=0.1), Sum())
    x = torch.ones(1, 2)
    opt.backward({"a": a(x).sum(), "b": b(x).sum()})
    with pytest.raises(ValueError, match="a name of its own for each parameter"):
        opt.backward({"f": lambda p: p["weight"].sum()})
    named = itertools.chain(a.named_parameters(), b.named_parameters())
    by_layer = MultiObjectiveGradient(torch.optim.SGD(named, lr=0.1), Sum(), blocks="layer")
    with pytest.raises(ValueError, match="a name of its own for each parameter"):
        by_layer.backward({"a": a(x).sum(), "b": b(x).sum()})


def with_rule_state(good: dict[str, Any], state: Any) -> dict[str, Any]:
    good["param_groups"][0]["rule_state"] = state
    return good


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda good: None, "got NoneType"),
        (lambda good: [good], "got list"),
        (lambda good: {}, r"got no \['state', 'param_groups'\]"),
        (lambda good: {"model": good}, r"among \['model'\]"),
        (lambda good: good | {"param_groups": good["param_groups"] * 2}, r"needs as many .*\[1\]; got \[1, 1\]"),
        *(
            (lambda good, state=state: with_rule_state(good, state), f"got {match}")
            for state, match in [(5, "5"), (None, "None"), ([1], r"\[1\]"), (torch.ones(1), r"tensor\(\[1")]
        ),
    ],
)
def test_a_state_dict_that_does_not_load_changes_nothing(spoil: Any, match: str) -> None:
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1, momentum=0.9), DWA())
    opt.backward({"a": w.sum(), "b": w.exp().sum()})
    opt.step()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises((TypeError, ValueError), match=match):
        opt.load_state_dict(spoil(copy.deepcopy(before)))
    now = opt.state_dict()
    assert now["param_groups"] == before["param_groups"]
    assert torch.equal(now["state"][0]["momentum_buffer"], before["state"][0]["momentum_buffer"])
    opt.backward({"a": w.sum(), "b": w.exp().sum()})
    opt.step()


def test_parameters_in_a_format_for_storage() -> None:
    small = nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))
    with pytest.raises(TypeError, match=r"of shape \(2,\) in torch.float8_e4m3fn, which is for storage"):
        MultiObjectiveGradient(torch.optim.SGD([small], lr=0.1), Sum())
    w = nn.Parameter(torch.ones(2))
    MultiObjectiveGradient(torch.optim.SGD([w, small.requires_grad_(False)], lr=0.1), Sum())  # frozen, it may stay


# ---- names


def assert_blocks(opt: MultiObjectiveGradient, net: nn.Module, blocks: set[str]) -> None:
    seen = opt.backward({"a": net(torch.ones(1, 2)).sum(), "b": net(torch.ones(1, 2)).square().sum()})
    assert seen.blocks.keys() == blocks
    opt.zero_grad()


@pytest.mark.parametrize("given", ["to the base", "to the wrapper"])
def test_names_follow_the_tensors_that_take_the_parameters_places(given: str) -> None:
    """As frameworks do that shard a model after its optimizer was built."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    base = torch.optim.SGD(net.named_parameters() if given == "to the base" else net.parameters(), lr=0.1)
    opt = MultiObjectiveGradient(
        base, Sum(), blocks="layer", params=None if given == "to the base" else net.named_parameters()
    )
    gone = [weakref.ref(p) for p in net.parameters()]
    for layer in net:
        for name, p in list(layer.named_parameters()):
            setattr(layer, name, nn.Parameter(p.detach().clone()))
    for group in opt.param_groups:
        group["params"] = list(net.parameters())
    del p
    assert [ref() for ref in gone] == [None] * 4  # nothing keeps them
    assert_blocks(opt, net, {"0", "1"})


@pytest.mark.parametrize("given", ["to the base", "to the wrapper"])
def test_names_of_a_group_that_is_added(given: str) -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    named = given == "to the base"
    first, second = (
        {"params": list(part.named_parameters(prefix=str(i)) if named else part.parameters())}
        for i, part in enumerate(net)
    )
    opt = MultiObjectiveGradient(
        torch.optim.SGD([first], lr=0.1), Sum(), blocks="layer", params=None if named else net.named_parameters()
    )
    opt.add_param_group(second)
    assert_blocks(opt, net, {"0", "1"})


# ---- habits of bases


class ScheduleFree(torch.optim.SGD):
    """Its parameters are other ones in training than in evaluation, and it is told which."""

    mode = "eval"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


def test_train_and_eval_are_there_where_the_base_has_them() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    plain = torch.optim.SGD([a], lr=0.1)
    for opt in (MultiObjectiveGradient(plain, Sum()), MultiObjectiveGradient([plain, torch.optim.SGD([b])], Sum())):
        assert not hasattr(opt, "train")
        assert not hasattr(opt, "eval")
        with pytest.raises(AttributeError, match="no attribute 'train'"):
            opt.train()
    base = ScheduleFree([b], lr=0.1)
    for opt in (MultiObjectiveGradient(base, Sum()), MultiObjectiveGradient([plain, base], Sum())):
        opt = copy.deepcopy(opt)
        last = opt.base if isinstance(opt.base, ScheduleFree) else opt.base.optimizers[1]
        opt.train()
        assert last.mode == "train"
        opt.eval()
        assert last.mode == "eval"


def sam_like(name: str) -> type[torch.optim.SGD]:
    return type("Sam", (torch.optim.SGD,), {name: lambda self: None})


class Hessian(torch.optim.SGD):
    def step(self, closure: Any = None, hessian: Any = None) -> Any:
        return super().step(closure)


@pytest.mark.parametrize("kind", [*map(sam_like, ("first_step", "set_closure", "fused_backward")), Hessian])
def test_a_base_that_goes_backward_itself(kind: type[torch.optim.SGD]) -> None:
    with pytest.raises(TypeError, match=r"steps along .grad alone; got (Sam|Hessian), .*LossBalancer"):
        MultiObjectiveGradient(kind([nn.Parameter(torch.ones(2))], lr=0.1), Sum())


def test_finishing_with_lbfgs_on_the_sum_with_the_last_weights() -> None:
    """A boundary value problem, u'' = -sin with u = 0 at both ends, as physics-informed networks solve it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    x = torch.linspace(0, torch.pi, 20, dtype=torch.float64)[:, None].requires_grad_()

    def losses() -> dict[str, torch.Tensor]:
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return {"equation": (curvature + x.sin()).square().mean(), "left": u[0].square(), "right": u[-1].square()}

    opt = MultiObjectiveGradient(torch.optim.Adam(net.parameters(), lr=1e-2), UPGrad())
    for _ in range(20):
        opt.zero_grad()
        opt.backward(losses())
        opt.step()
    before = {name: loss.item() for name, loss in losses().items()}
    finish = torch.optim.LBFGS(net.parameters(), line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        finish.zero_grad()
        total = sum(w * loss.sum() for w, loss in zip(opt.last.weights, losses().values(), strict=True))
        total.backward()
        return total

    with pytest.raises(TypeError, match=r"finish with LBFGS .*opt.last.weights"):
        MultiObjectiveGradient(finish, UPGrad())
    for _ in range(5):
        finish.step(closure)
    after = {name: loss.item() for name, loss in losses().items()}
    assert sum(after.values()) < 0.1 * sum(before.values())
