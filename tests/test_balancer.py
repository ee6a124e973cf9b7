"""LossBalancer: its scalar has the gradient that the wrapper gives, whatever the framework's backward pass is."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import LossBalancer, MultiObjectiveGradient
from gradweight.rule import CoordinateRule
from gradweight.rules import CRMOGM, FAMO, AngleBisector, GradDrop, NormBalance, Sum, Uncertainty, UPGrad, VQGANWeight
from gradweight.rules.claims import CLAIMS, NAMES


class Net(nn.Module):
    """A trunk with one head per loss, which a loss reaches alone."""

    def __init__(self, m: int, device: str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(m)
        self.trunk = nn.Linear(3, 4, device=device, dtype=dtype)
        self.last = nn.Linear(4, 4, device=device, dtype=dtype)
        self.heads = nn.ModuleList(nn.Linear(4, 1, device=device, dtype=dtype) for _ in range(m))

    def losses(self, step: int) -> tuple[dict[str, Tensor], Tensor]:
        generator, weight = torch.Generator().manual_seed(step), self.trunk.weight
        x = torch.randn(6, 3, generator=generator, dtype=torch.float64).to(weight)
        features = self.last(torch.tanh(self.trunk(x)))
        heads = zip(NAMES, self.heads, strict=False)
        return {
            name: (1 + i) * (head(torch.tanh(features)) - i).square().mean() + 0.1
            for i, (name, head) in enumerate(heads)
        }, features


def grads(net: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


def close(ours: Any, theirs: Any) -> None:
    # what a sum of weighted losses is walked back as adds up in another order
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "claims", [c for c in CLAIMS if not (isinstance(c.rule, CoordinateRule) or c.averages)], ids=lambda c: c.name
)
def test_the_gradient_is_the_wrapper_s(claims, every: int) -> None:
    low, high = claims.losses
    m = min(high, max(low, 3))
    net, reference = Net(m), Net(m)
    balance = LossBalancer(claims.rule, net.parameters(), refresh_every=every)
    base = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5)
    expected = MultiObjectiveGradient(
        torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.5), claims.rule, refresh_every=every
    )
    for step in range(4):
        base.zero_grad()
        losses, _ = net.losses(step)
        value = balance(losses, **claims.signals)
        value.backward()
        base.step()
        expected.zero_grad()
        seen = expected.backward(reference.losses(step)[0], **claims.signals)
        expected.step()
        close(grads(net), grads(reference))
        assert balance.last is not None
        close(
            [balance.last.weights, balance.last.losses, balance.last.gram],
            # a loss-level rule's wrapper has walked the weighted sum back once
            [seen.weights, seen.losses, seen.gram],
        )
        close(value.detach(), (balance.last.weights * balance.last.losses).sum())


def test_one_more_backward_pass_than_losses() -> None:
    def passes(rule: Any, steps: int = 1, **options: Any) -> int:
        net, count = Net(3), 0

        def counted(grad: Tensor) -> None:
            nonlocal count
            count += 1

        balance = LossBalancer(rule, net.parameters(), **options)
        for step in range(steps):
            losses, features = net.losses(step)
            features.register_hook(counted)
            balance(losses).backward()
        return count

    assert passes(UPGrad()) == 4
    assert passes(Uncertainty()) == 1
    assert passes(UPGrad(), steps=6, refresh_every=3) == 6 + 2 * 3


def test_at_the_last_layer_only_that_is_walked_to() -> None:
    net = Net(2)
    balance = LossBalancer(VQGANWeight("a", "b"), [net.last.weight])
    losses, _ = net.losses(0)
    reached = []
    net.trunk.weight.register_hook(lambda grad: reached.append(1))
    value = balance(losses)
    assert not reached
    a, b = (torch.autograd.grad(loss, net.last.weight, retain_graph=True)[0].norm() for loss in losses.values())
    close(value, losses["a"] + 0.8 * a / b * losses["b"])  # the paper's lambda, at the layer where it has it


def test_at_a_tensor_weights_are_those_of_the_shared_one() -> None:
    net, reference = Net(3), Net(3)
    balance = LossBalancer(UPGrad())
    losses, features = net.losses(0)
    balance(losses, at=features).backward()
    opt = MultiObjectiveGradient(torch.optim.SGD(reference.parameters(), lr=0.1), UPGrad())
    losses, features = reference.losses(0)
    seen = opt.backward(losses, shared=features)
    assert balance.last is not None
    close([balance.last.gram, balance.last.weights], [seen.gram, seen.weights])
    close(net.trunk.weight.grad, reference.trunk.weight.grad)


def after(steps: range, net: Net, balance: LossBalancer) -> list[Tensor]:
    base = torch.optim.SGD(net.parameters(), lr=0.05)
    for step in steps:
        base.zero_grad()
        balance(net.losses(step)[0]).backward()
        base.step()
    return [p.detach().clone() for p in net.parameters()]


def saved(module: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("rule", [NormBalance(), CRMOGM(UPGrad()), FAMO(), UPGrad()], ids=lambda r: type(r).__name__)
def test_resumes_bit_for_bit(rule: Any, every: int) -> None:
    net = Net(3)
    balance = LossBalancer(rule, net.parameters(), refresh_every=every)
    after(range(3), net, balance)
    parts = nn.ModuleDict({"net": net, "balance": balance})  # as a model that a framework saves as a whole
    state = saved(parts)
    expected = after(range(3, 7), net, balance)
    other = Net(3)
    resumed = LossBalancer(rule, other.parameters(), refresh_every=every)
    nn.ModuleDict({"net": other, "balance": resumed}).load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(after(range(3, 7), other, resumed), expected, strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_its_own_way(copied: Callable[[Any], Any]) -> None:
    net = Net(3)
    balance = LossBalancer(NormBalance(), net.parameters(), history=2)
    after(range(2), net, balance)
    other, theirs = copied((net, balance))
    ours = after(range(2, 5), net, balance)
    close(after(range(2, 5), other, theirs), ours)
    assert len(balance.history) == 2


def test_a_checkpoint_of_another_rule_is_named() -> None:
    net = Net(3)
    first = LossBalancer(FAMO(), net.parameters())
    first(net.losses(0)[0]).backward()
    with pytest.warns(UserWarning, match="holds the state of FAMO; the rule is NormBalance"):
        LossBalancer(NormBalance(), net.parameters()).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="must be what state_dict\\(\\) has written"):
        first.load_state_dict({"_extra_state": {"rule_state": "{"}})


def test_without_gradients_it_is_the_plain_sum_and_remembers_nothing() -> None:
    net = Net(2)
    balance = LossBalancer(NormBalance(), net.parameters())
    with torch.no_grad():
        losses, _ = net.losses(0)
        close(balance(losses), losses["a"] + losses["b"])
    assert balance.last is None
    assert balance.state_dict()["_extra_state"] == {"rule_state": "{}"}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_reaches_everything(bad: float) -> None:
    net = Net(3)
    balance = LossBalancer(UPGrad(), net.parameters())
    losses, _ = net.losses(0)
    losses["b"] = losses["b"] * bad
    balance(losses).backward()
    assert all(grad.isnan().all() for grad in grads(net))


def test_a_loss_scale_keeps_small_gradients() -> None:
    """In half precision 1e-8 is nothing, and 1e-8 times the scale is a number."""
    net = nn.Linear(2, 1, bias=False).half()
    x = torch.tensor([[1e-4, 0.0], [0.0, 2e-4]], dtype=torch.float16)
    balance = LossBalancer(AngleBisector(), net.parameters())
    norms = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**12)):
        a, b = net(x)[:, 0] * 1e-4
        balance({"a": a, "b": b}, scaler=scaler)
        assert balance.last is not None
        norms.append(balance.last.norms)
    assert norms[0].tolist() == [0, 0]
    torch.testing.assert_close(norms[1], torch.tensor([1e-8, 2e-8]), rtol=1e-2, atol=0)  # of half precision


def test_nothing_is_read() -> None:
    """A tensor on "meta" has no values."""
    for rule in (AngleBisector(), CRMOGM(UPGrad()), FAMO()):
        net = Net(3, "meta", torch.float32)
        balance = LossBalancer(rule, net.parameters())
        for _ in range(2):
            value = balance({name: head(net.last(net.trunk(torch.empty(5, 3, device="meta")))).sum()
                             for name, head in zip("abc", net.heads, strict=True)})  # fmt: skip
            value.backward()
        assert value.shape == ()


def test_an_optimizer_inside_the_backward_pass() -> None:
    """One per parameter, which steps and clears as soon as the gradient is there: the wrapper never sees it."""
    net, reference = Net(3), Net(3)
    balance = LossBalancer(UPGrad(), net.parameters())
    optimizers = {p: torch.optim.Adam([p], lr=0.01) for p in net.parameters()}

    def step(p: Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    opt = MultiObjectiveGradient(torch.optim.Adam(reference.parameters(), lr=0.01), UPGrad())
    for i in range(3):
        balance(net.losses(i)[0]).backward()
        opt.zero_grad()
        opt.backward(reference.losses(i)[0])
        opt.step()
    close(list(net.parameters()), list(reference.parameters()))


def test_a_micro_batch_without_a_loss() -> None:
    net = Net(3)
    balance = LossBalancer(Sum(), net.parameters())
    losses, _ = net.losses(0)
    value = balance(losses | {"b": None})
    close(value, losses["a"] + losses["c"])


def bad(make: Callable[[Net, dict[str, Tensor], Tensor], object]) -> None:
    net = Net(2)
    make(net, *net.losses(0))
    assert all(p.grad is None for p in net.parameters())


PARAMS = r"LossBalancer's params must be parameters, such as net.parameters\(\); got "


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda n, x, f: LossBalancer(GradDrop(), n.parameters()),
            TypeError,
            "one weight per loss; GradDrop.* acts on",
        ),
        (lambda n, x, f: LossBalancer(Sum, n.parameters()), TypeError, "Sum"),
        (lambda n, x, f: LossBalancer(Sum(), n), TypeError, PARAMS + "Net"),
        (lambda n, x, f: LossBalancer(Sum(), n.named_parameters()), TypeError, PARAMS + "generator of tuple"),
        (lambda n, x, f: LossBalancer(Sum(), []), TypeError, PARAMS + "list"),
        (lambda n, x, f: LossBalancer(Sum(), n.parameters(), refresh_every=0), ValueError, "at least 1; got 0"),
        (lambda n, x, f: LossBalancer(Sum())(x), ValueError, "needs params, or at= in every call"),
        (lambda n, x, f: LossBalancer(Sum())(x, at=n), TypeError, "at must be a tensor, or several, .*; got Net"),
        (lambda n, x, f: LossBalancer(Sum(), n.parameters())(x, at=f.detach()), ValueError, "there is none"),
        (lambda n, x, f: LossBalancer(Sum(), n.parameters())(lambda p: x), TypeError, "losses that are tensors"),
        (lambda n, x, f: LossBalancer(Sum(), n.parameters())(x, scaler=8), TypeError, "GradScaler; got int"),
        (lambda n, x, f: LossBalancer(Sum(), n.parameters())(x, score=1), TypeError, r"LossBalancer\(\).*score"),
        (lambda n, x, f: LossBalancer(Sum(), [n.heads[0].weight])(x), ValueError, "the loss 'b' reaches none"),
        (lambda n, x, f: LossBalancer(Sum(), n.parameters())({}), ValueError, "at least one loss"),
    ],
)
def test_bad_use(make: Callable[..., object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        bad(make)
