"""`split_at`: a host adds up its losses where nobody gets in between, and each has its own gradient all the same."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient
from gradweight.contract.rule_check import needs_losses
from gradweight.rules import CRMOGM, FAMO, Fade, Mean, MoCo, Normalized, NormBalance, Sum, UPGrad
from gradweight.rules.claims import CLAIMS
from gradweight.rules.claims import NAMES as LOSSES
from gradweight.step import split as split_module

SAMPLES = 12
VALUE, ENTROPY, CLIP = 0.5, 0.01, 0.1
NAMES = ("policy", "value", "entropy")


class Policy(nn.Module):
    """An actor and a critic on one trunk."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 8, dtype=dtype)
        self.actor, self.critic = nn.Linear(8, 3, dtype=dtype), nn.Linear(8, 1, dtype=dtype)

    def evaluate(self, x: Tensor, actions: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.trunk(x))
        spread = torch.distributions.Categorical(logits=self.actor(h))
        return {"policy": spread.log_prob(actions), "value": self.critic(h)[:, 0], "entropy": spread.entropy()}


class Batch(NamedTuple):
    x: Tensor
    actions: Tensor
    old: Tensor
    advantages: Tensor
    returns: Tensor


def batches(n: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(n):
        x, old, a, r = (torch.randn(SAMPLES, k, generator=generator).to(dtype) for k in (4, 1, 1, 1))
        actions = torch.randint(3, (SAMPLES,), generator=generator)
        made.append(Batch(x, actions, -1 + 0.1 * old[:, 0], a[:, 0], r[:, 0]))
    return made


def terms(out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The three losses of PPO, the ratio clipped."""
    ratio = torch.exp(out["policy"] - batch.old)
    clipped = batch.advantages * torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
    return {
        "policy": -torch.min(batch.advantages * ratio, clipped).mean(),
        "value": VALUE * (batch.returns - out["value"]).square().mean(),
        "entropy": -ENTROPY * out["entropy"].mean(),
    }


def host(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    evaluate: Callable[..., dict[str, Tensor]],
    scale: float = 1.0,
) -> Tensor:
    """What a host does deep inside a method: evaluate, add up, backward."""
    losses = terms(evaluate(batch.x, batch.actions), batch)
    loss = losses["policy"] + losses["value"] + losses["entropy"]
    (loss * scale).backward()
    return loss


def wrapped(net: nn.Module, rule: Any = None, **options: Any) -> MultiObjectiveGradient:
    base = torch.optim.Adam(net.named_parameters(), lr=0.01)
    return MultiObjectiveGradient(base, UPGrad() if rule is None else rule, **options)


def split(policy: Policy, opt: MultiObjectiveGradient, how: str = "once", **options: Any) -> Callable[..., Any]:
    def evaluate(x: Tensor, actions: Tensor) -> dict[str, Tensor]:
        out = policy.evaluate(x, actions)
        if how == "once":
            return opt.split_at(out, **options)
        return {name: opt.split_at({name: tensor}, **options)[name] for name, tensor in out.items()}

    return evaluate


def same(net: nn.Module, reference: nn.Module, what: str = "data") -> None:
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(getattr(p, what), getattr(q, what))


@pytest.mark.parametrize("how", ["once", "each"])
@pytest.mark.parametrize("micro", [1, 3])
def test_ppo_is_trained_as_by_backward(how: str, micro: int) -> None:
    """To the last digit: the same operations in the same order, clipping of gradients included."""
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy), wrapped(reference)
    evaluate = split(policy, opt, how)
    for i, batch in enumerate(batches(4 * micro)):
        if i % micro == 0:
            opt.zero_grad()
            direct.zero_grad()
        host(policy, opt, batch, evaluate, 1 / micro)
        # the factor of the host comes first on its way back
        scaled = {name: loss / micro for name, loss in terms(reference.evaluate(batch.x, batch.actions), batch).items()}
        direct.backward(scaled)
        if i % micro == micro - 1:
            for net in (policy, reference):
                nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            opt.step()
            direct.step()
            assert opt.last is not None
            assert direct.last is not None
            assert opt.last.names == NAMES
            torch.testing.assert_close(opt.last.gram, direct.last.gram, rtol=0, atol=0)
            assert opt.last.losses.isnan().all()
    same(policy, reference)


@pytest.mark.parametrize(
    "options",
    [{"engine": "hooks"}, {"engine": "batched"}, {"engine": "gram"}, {"refresh_every": 2}, {"blocks": "layer"}],
    ids=str,
)
def test_with_everything_that_backward_has(options: dict[str, Any]) -> None:
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy, **options), wrapped(reference, **options)
    evaluate = split(policy, opt)
    for batch in batches(3):
        opt.zero_grad()
        direct.zero_grad()
        host(policy, opt, batch, evaluate)
        direct.backward(terms(reference.evaluate(batch.x, batch.actions), batch))
        opt.step()
        direct.step()
    for p, q in zip(policy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)  # batched losses add up in another order


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=4), seed=st.integers(0, 99)
)
def test_the_parts_are_those_of_the_chain_rule(sizes: list[list[int]], seed: int) -> None:
    """Whatever the host computes: one row a name, ``(dt/dp)^T dL/dt``, all of which add up to the gradient of L."""
    torch.manual_seed(seed)
    params = [torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    maps = [[torch.randn(n, 5, dtype=torch.float64) for n in some] for some in sizes]
    mix = torch.randn(sum(map(sum, sizes)), dtype=torch.float64)

    def tensors() -> dict[str, list[Tensor]]:
        inside = torch.tanh(params[0]) * params[1]
        return {f"t{i}": [a @ inside for a in some] for i, some in enumerate(maps)}

    def total(given: dict[str, list[Tensor]]) -> Tensor:
        y = torch.cat([t for some in given.values() for t in some])
        return (mix * y).sin().sum() * y.square().mean()  # no sum of a term each

    seen: list[Tensor] = []
    opt = MultiObjectiveGradient(
        torch.optim.SGD(params, lr=0.1), lambda gram: seen.append(gram) or torch.ones_like(gram[0])
    )
    total(opt.split_at(tensors())).backward()

    named = tensors()
    flat = [t for some in named.values() for t in some]
    cotangents = iter(torch.autograd.grad(total(named), flat, retain_graph=True))
    rows = [
        torch.cat(torch.autograd.grad(some, params, [next(cotangents) for _ in some], retain_graph=True))
        for some in named.values()
    ]
    whole = torch.cat(torch.autograd.grad(total(named), params))
    torch.testing.assert_close(seen[-1], torch.stack(rows) @ torch.stack(rows).T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.cat([p.grad for p in params]), whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("off", ["no_grad", "inference_mode", "frozen"])
def test_where_nothing_is_trained_the_tensors_come_back(off: str) -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    context = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "frozen": torch.enable_grad}[off]
    policy.requires_grad_(off != "frozen")
    with context():
        out = policy.evaluate(batch.x, batch.actions)
        back = opt.split_at({**out, "none": None})
    assert back.keys() == {*NAMES, "none"}
    assert all(back[name] is out[name] for name in NAMES)
    opt.step()  # nothing waits


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


def test_forms() -> None:
    """What comes back has the form of what was given, and the same values in the same memory."""
    net = nn.Linear(2, 5)
    opt = wrapped(net)
    a, b, c, d, e = net(torch.ones(3, 2)).unbind(1)
    out = opt.split_at({"one": a, "list": [b, c], "pair": Pair(d, e), "none": None})
    assert isinstance(out["one"], Tensor)
    assert isinstance(out["list"], list)
    assert isinstance(out["pair"], Pair)
    assert out["none"] is None
    assert out["pair"].b.data_ptr() == e.data_ptr()
    (out["one"].sum() + out["list"][1].square().sum() + out["pair"].a.sum()).backward()  # one of each is enough
    assert opt.last is not None
    assert opt.last.names == ("one", "list", "pair", "none")


def test_one_tensor_under_two_names() -> None:
    net, reference = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    reference.load_state_dict(net.state_dict())
    x = torch.randn(6, 2, dtype=torch.float64)
    opt, direct = wrapped(net), wrapped(reference)
    y = net(x)
    out = opt.split_at({"fit": y, "size": y})
    ((out["fit"] - 1).square().mean() + out["size"].abs().mean()).backward()
    y = reference(x)
    direct.backward({"fit": (y - 1).square().mean(), "size": y.abs().mean()})
    same(net, reference, "grad")


def test_the_host_may_write_to_a_stand_in() -> None:
    net = nn.Linear(2, 2)
    opt = wrapped(net, Sum())
    y = net(torch.ones(1, 2))[0]
    a, b = opt.split_at({"a": y[:1].clone(), "b": y[1:].clone()}).values()
    a.mul_(3)
    (a + b).sum().backward()
    assert net.bias.grad is not None
    assert net.bias.grad.tolist() == [3, 1]


@pytest.mark.parametrize("calls", [1, 2])
def test_what_the_host_writes_to_is_not_what_another_name_has(calls: int) -> None:
    """Whose value would have changed without its gradient."""

    def write(named: dict[str, Tensor]) -> None:
        opt = wrapped(net)
        out = opt.split_at(named if calls == 1 else {"a": named["a"]})
        with torch.no_grad():
            out["a"].mul_(1)
        if calls == 2:
            out |= opt.split_at({"b": named["b"]})
        torch.stack([t.sum() for t in out.values()]).sum().backward()

    net = nn.Linear(2, 4)
    y = net(torch.ones(3, 2))
    write({"a": y[:, 0], "b": y[:, 1]})
    for named in ({"a": y, "b": y}, {"a": y[:, 1], "b": y.mT}, {"a": net.bias, "b": y}):
        with pytest.raises(RuntimeError, match=r"written to in place, and is a parameter or lies where"):
            write(named)


@pytest.mark.parametrize("how", ["once", "each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grad_scaler(how: str, dtype: torch.dtype) -> None:
    policy, reference = Policy(dtype), Policy(dtype)
    rule = NormBalance()
    opt, direct = wrapped(policy, rule), wrapped(reference, rule)
    scaler, other = (torch.amp.GradScaler("cpu", init_scale=2.0**12) for _ in range(2))
    for i, batch in enumerate(batches(4, dtype)):
        opt.zero_grad()
        direct.zero_grad()
        bad = torch.inf if i == 1 else 1.0
        out = split(policy, opt, how, scaler=scaler)(batch.x, batch.actions)
        losses = terms(out, batch)
        scaler.scale(losses["policy"] + losses["value"] * bad + losses["entropy"]).backward()
        losses = terms(reference.evaluate(batch.x, batch.actions), batch)
        direct.backward(losses | {"value": losses["value"] * bad}, scaler=other)
        assert opt.last is not None
        assert direct.last is not None
        torch.testing.assert_close(opt.last.gram, direct.last.gram, rtol=0, atol=0, equal_nan=True)
        for each, one in ((scaler, opt), (other, direct)):
            each.unscale_(one)
            each.step(one)
            each.update()
        assert scaler.get_scale() == other.get_scale() == (2.0**12 if i == 0 else 2.0**11)
    same(policy, reference)


def test_half_precision_does_not_underflow() -> None:
    net = nn.Linear(2, 1, bias=False, dtype=torch.float16)
    opt = wrapped(net, Sum())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
    y = opt.split_at({"y": net(torch.ones(1, 2, dtype=torch.float16))}, scaler=scaler)["y"]
    scaler.scale(2.0**-30 * y.float().sum()).backward()  # below the smallest of float16
    assert net.weight.grad is not None
    assert net.weight.grad.tolist() == [[2.0**-15, 2.0**-15]]


def test_step_before_unscaling_is_an_error_as_after_backward() -> None:
    policy = Policy()
    opt = wrapped(policy)
    scaler = torch.amp.GradScaler("cpu")
    host(policy, opt, batches(1)[0], split(policy, opt, scaler=scaler), scaler.get_scale())
    with pytest.raises(RuntimeError, match="still multiplied by the loss scale"):
        opt.step()


# ---- rules


@pytest.mark.parametrize(
    "rule",
    [FAMO(), Normalized(FAMO()), Normalized(UPGrad(), by="loss"), Fade(Mean(), CRMOGM(FAMO()), 3), MoCo(by_loss=True)],
    ids=str,
)
def test_a_rule_that_goes_by_losses_is_refused(rule: Any) -> None:
    policy = Policy()
    opt = wrapped(policy, rule)
    with pytest.raises(TypeError, match=r"gradients and no values of losses.*goes by values: use a rule"):
        opt.split_at({"y": policy.critic(torch.ones(1, 8, dtype=torch.float64))})
    opt.step()  # nothing waits


@pytest.mark.parametrize("claims", [c for c in CLAIMS if c.losses[0] <= 2], ids=lambda c: c.name)
def test_which_rules_go_by_losses(claims: Any) -> None:
    """Those that are not refused give numbers where the values of the losses are NaN."""
    net = nn.Linear(3, 2).double()
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), claims.rule)
    y = net(torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    named = dict(zip(LOSSES, y.unbind(1), strict=False))
    if needs_losses(claims.rule):
        with pytest.raises(TypeError, match="goes by values"):
            opt.split_at(named, **claims.signals)
        return
    out = opt.split_at(named, **claims.signals)
    torch.stack([(t + i).square().mean() for i, t in enumerate(out.values())]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


# ---- bad use


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ([], TypeError, "mapping name -> tensor"),
        ({}, ValueError, "at least one tensor"),
        ({"a": None}, ValueError, "at least one tensor"),
        ({1: torch.ones(1)}, TypeError, "names of tensors must be str"),
        ({"a": 1.0}, TypeError, "a tensor, several or None for 'a'; got float"),
        ({"a": []}, TypeError, "several or None for 'a'"),
        ({"a": [torch.ones(1, requires_grad=True), 2]}, TypeError, "got int for 'a'"),
        ({"a": torch.ones(1, dtype=torch.int64)}, TypeError, "got torch.int64 for 'a'"),
        ({"a": torch.ones(1)}, ValueError, "'a' has no graph"),
    ],
)
def test_what_is_given(given: Any, error: type[Exception], match: str) -> None:
    opt = wrapped(Policy())
    with pytest.raises(error, match=match):
        opt.split_at(given)
    opt.step()


def before_and_after(policy: Policy, opt: MultiObjectiveGradient) -> tuple[list[Any], dict[str, Any]]:
    grads = [None if p.grad is None else p.grad.clone() for p in policy.parameters()]
    return grads, {name: t.clone() for name, t in policy.state_dict().items()}


@pytest.mark.parametrize("given", [False, True], ids=["some", "none"])
def test_tensors_that_the_loss_does_not_come_from(given: bool) -> None:
    """Those that were given in place of the stand-ins, or nothing of them."""
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    out = policy.evaluate(batch.x, batch.actions)
    stand_ins = opt.split_at(out)
    if given:
        torch.stack([*terms(out, batch).values()]).sum().backward()
        with pytest.raises(
            RuntimeError, match=r"still wait for a backward pass: was the loss computed from the tensors"
        ):
            opt.step()
        del stand_ins
        opt.zero_grad()
    else:
        losses = terms(stand_ins, batch)
        with pytest.raises(RuntimeError, match=r"did not come to the tensors.*\['entropy'\]"):
            (losses["policy"] + losses["value"]).backward()
        assert all(p.grad is None for p in policy.parameters())
    host(policy, opt, batch, split(policy, opt))
    opt.step()


def test_a_call_that_the_backward_pass_does_not_come_to() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    losses = terms(split(policy, opt, "each")(batch.x, batch.actions), batch)
    with pytest.raises(RuntimeError, match=r"did not come to the tensors.*\['value', 'entropy'\]"):
        losses["policy"].backward()
    assert all(p.grad is None for p in policy.parameters())
    opt.step()


@pytest.mark.parametrize(("way", "reentrant"), [("split_at", False), ("split_at", True), ("join", True)])
def test_within_a_checkpoint_is_an_error(way: str, reentrant: bool) -> None:
    """A reentrant one would leave the trunk untrained: its backward pass ends at the checkpoint."""
    policy = Policy()
    opt = wrapped(policy)

    def computed(x: Tensor) -> Tensor:
        value = policy.critic(x).square()
        if way == "join":
            return opt.join({"value": value.mean(), "size": value.abs().mean()})
        return opt.split_at({"value": value})["value"].square().sum()

    loss = checkpoint(computed, policy.trunk(batches(1)[0].x), use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"\(\) was called within a backward pass.*outside of what is checkpointed"):
        loss.backward()
    assert all(p.grad is None for p in policy.parameters())


@pytest.mark.parametrize("how", ["result is not used", "inputs"])
def test_a_step_after_tensors_that_were_given_up_warns(how: str) -> None:
    """Also where the graph is gone by then, and zero_grad() came after the forward pass."""
    policy = Policy()
    opt = wrapped(policy)

    def step(batch: Batch, *, right: bool) -> None:
        out = policy.evaluate(batch.x, batch.actions)
        found = opt.split_at(out)
        loss = torch.stack([*terms(found if right or how == "inputs" else out, batch).values()]).sum()
        opt.zero_grad()
        loss.backward(inputs=None if right or how != "inputs" else list(policy.parameters()))

    some = batches(3)
    opt.split_at(policy.evaluate(some[0].x, some[0].actions))  # a forward pass that nothing comes of
    for batch in some[:2]:
        step(batch, right=True)
        opt.step()
    step(some[2], right=False)
    with pytest.warns(UserWarning, match=r"what split_at\(\) returned was given up before a backward pass came to it"):
        opt.step()


def test_without_the_callback_the_step_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "at_the_end_of_the_backward_pass", lambda function: None)
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    losses = terms(split(policy, opt, "each")(batch.x, batch.actions), batch)
    losses["policy"].backward()
    with pytest.raises(RuntimeError, match=r"\['value', 'entropy'\] still wait"):
        opt.step()


def test_inputs_keep_autograd_from_the_tensors() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    loss = torch.stack([*terms(split(policy, opt)(batch.x, batch.actions), batch).values()]).sum()
    loss.backward(inputs=list(policy.parameters()), retain_graph=True)
    with pytest.raises(RuntimeError, match="without inputs="):
        opt.step()
    loss.backward()
    opt.step()


def test_a_name_twice() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    out = policy.evaluate(batch.x, batch.actions)
    stand_ins = opt.split_at(out)
    with pytest.raises(RuntimeError, match=r"called for \['value'\] while.*a name of its own"):
        opt.split_at({"value": out["value"]})
    with pytest.raises(RuntimeError, match=r"join\(\) was called for \['a'\] while the tensors that split_at\(\)"):
        opt.join({"a": out["value"].mean()})
    torch.stack([*terms(stand_ins, batch).values()]).sum().backward()  # is none the worse for it
    opt.step()


def test_while_a_joined_scalar_waits() -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    out = policy.evaluate(batch.x, batch.actions)
    joined = opt.join(terms(out, batch))
    with pytest.raises(RuntimeError, match=r"split_at\(\) was called for .* while the scalar that join\(\) returned"):
        opt.split_at(out)
    joined.backward()


@pytest.mark.parametrize("left", ["dropped", "zero_grad"])
def test_a_step_that_is_left_out(left: str) -> None:
    """As where PPO stops early: what was split is never walked back."""
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy), wrapped(reference)
    for i, batch in enumerate(batches(3)):
        out = split(policy, opt)(batch.x, batch.actions)
        if i == 1:
            if left == "zero_grad":
                opt.zero_grad()
            del out
            gc.collect()
            continue
        opt.zero_grad()  # as hosts do it that zero after the forward
        torch.stack([*terms(out, batch).values()]).sum().backward()
        opt.step()
        direct.zero_grad()
        direct.backward(terms(reference.evaluate(batch.x, batch.actions), batch))
        direct.step()
    for p, q in zip(policy.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)  # another sum of the losses


@pytest.mark.parametrize("retain", [False, True])
def test_a_second_backward_pass(retain: bool) -> None:
    policy = Policy()
    opt = wrapped(policy)
    batch = batches(1)[0]
    loss = split(policy, opt)(batch.x, batch.actions)["value"].sum()
    with pytest.raises(RuntimeError, match="did not come to"):
        loss.backward(retain_graph=True)
    out = opt.split_at({"y": policy.critic(torch.ones(2, 8, dtype=torch.float64))})["y"]
    doubled = out * 2
    doubled.sum().backward(retain_graph=retain)
    grads, _ = before_and_after(policy, opt)
    with pytest.raises(RuntimeError, match="second time"):
        doubled.sum().backward()
    for p, g in zip(policy.parameters(), grads, strict=True):
        assert p.grad is g is None or torch.equal(p.grad, g)


@pytest.mark.parametrize("retain", [False, True])
def test_the_tensors_own_graphs_are_retained_with_the_host_s(retain: bool) -> None:
    policy = Policy()
    opt = wrapped(policy)
    y = policy.critic(torch.ones(2, 8, dtype=torch.float64))
    opt.split_at({"y": y})["y"].sum().backward(retain_graph=retain)
    if retain:
        torch.autograd.grad(y.sum(), policy.critic.weight)
    else:
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y.sum(), policy.critic.weight)


def test_a_tensor_that_is_computed_from_another_s_stand_in() -> None:
    policy = Policy()
    opt = wrapped(policy)
    h = opt.split_at({"h": policy.trunk(torch.ones(2, 4, dtype=torch.float64))})["h"]
    y = opt.split_at({"y": policy.critic(h)})["y"]
    with pytest.raises(RuntimeError, match="give both to one call"):
        (h.square().sum() + y.sum()).backward()
    assert all(p.grad is None for p in policy.parameters())


def test_one_call_takes_both() -> None:
    """What goes through both is of the later one, and the sum is the whole gradient."""
    policy = Policy()
    opt = wrapped(policy, Sum())
    h = policy.trunk(torch.ones(2, 4, dtype=torch.float64))
    out = opt.split_at({"h": h, "y": policy.critic(h)})
    (out["h"].square().sum() + out["y"].sum()).backward()
    h = policy.trunk(torch.ones(2, 4, dtype=torch.float64))
    params = [*policy.trunk.parameters(), *policy.critic.parameters()]
    expected = torch.autograd.grad(h.square().sum() + policy.critic(h).sum(), params)
    torch.testing.assert_close([p.grad for p in params], list(expected), rtol=1e-12, atol=1e-12)


class Moody:
    """A rule with a memory that fails when it is told to."""

    fails = False

    def init(self, gram: Tensor) -> dict[str, Tensor]:
        return {"steps": torch.zeros(())}

    def update(self, gram: Tensor, state: dict[str, Tensor], /) -> tuple[Tensor, dict[str, Tensor]]:
        if Moody.fails:
            raise ArithmeticError("no weights today")
        return 1 + state["steps"] + 0 * gram[0], {"steps": state["steps"] + 1}


@pytest.mark.parametrize("micro", [1, 2])
def test_a_failed_backward_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch, micro: int) -> None:
    policy, reference = Policy(), Policy()
    opt, direct = wrapped(policy, Moody()), wrapped(reference, Moody())
    first, second, third = batches(3)
    for one, net in ((opt, policy), (direct, reference)):
        host(net, one, first, split(net, one))
        if micro == 1:
            one.step()
            one.zero_grad()
    before = before_and_after(policy, opt)
    monkeypatch.setattr(Moody, "fails", True)
    with pytest.raises(ArithmeticError, match="no weights today"):
        host(policy, opt, second, split(policy, opt))
    monkeypatch.setattr(Moody, "fails", False)
    after = before_and_after(policy, opt)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    for one, net in ((opt, policy), (direct, reference)):
        host(net, one, third, split(net, one))
        one.step()
    same(policy, reference)
