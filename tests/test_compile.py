"""A whole training step under `torch.compile`: forward, one gradient per loss, rule, base step."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch._functorch import config as functorch_config
from torch.func import functional_call
from torch.nn import functional as F

from gradweight import MultiObjectiveGradient
from gradweight.func import combined_grad
from gradweight.rules import AdaptiveWeights, AngleBisector, Sum

REAL, FAKE = torch.linspace(-1, 1, 16).view(8, 2), torch.linspace(-2, 1, 16).view(8, 2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


def gradient_of(net, rule):
    def losses(params, real, fake):
        on_real, on_fake = functional_call(net, params, (real,)), functional_call(net, params, (fake,))
        named = {"real": F.softplus(-on_real).mean(), "fake": F.softplus(on_fake).mean()}
        scores = {"real_score": on_real.sigmoid().mean(), "fake_score": on_fake.sigmoid().mean()}
        return named, scores if isinstance(rule, AdaptiveWeights) else {}

    return combined_grad(losses, rule, has_signals=True)


def functional_step(rule):
    """Momentum, written out, so that nothing of the step is outside the function."""
    gradient = gradient_of(network(), rule)

    def step(params, momentum, real, fake):
        direction, seen = gradient(params, real, fake)
        momentum = {name: 0.9 * momentum[name] + direction[name] for name in params}
        return {name: p - 0.1 * momentum[name] for name, p in params.items()}, momentum, seen.weights

    return step


@pytest.mark.parametrize("rule", [Sum(), AngleBisector(), AdaptiveWeights()], ids=lambda rule: type(rule).__name__)
def test_a_whole_step_is_one_graph(rule):
    step = functional_step(rule)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    params = {name: p.detach() for name, p in network().named_parameters()}
    momentum = {name: torch.zeros_like(p) for name, p in params.items()}
    ours, theirs = (params, momentum), (params, momentum)
    for _ in range(3):
        *ours, weights = compiled(*ours, REAL, FAKE)
        *theirs, expected = step(*theirs, REAL, FAKE)
        torch.testing.assert_close(weights, expected)
    for name in params:
        torch.testing.assert_close(ours[0][name], theirs[0][name])


@pytest.mark.slow
def test_with_an_optimizer_of_torch_the_only_break_is_its_own():
    """`torch.optim.Optimizer.step` breaks the graph by itself: what leads to ``.grad`` is one graph."""

    def training():
        net = network()
        base = torch.optim.Adam(net.parameters(), 1e-2)
        gradient = gradient_of(net, AngleBisector())

        def step(real, fake):
            direction, _ = gradient({name: p.detach() for name, p in net.named_parameters()}, real, fake)
            for name, p in net.named_parameters():
                p.grad = direction[name]
            base.step()

        return net, step

    _, step = training()
    explained = torch._dynamo.explain(step)(REAL, FAKE)
    assert (explained.graph_count, explained.graph_break_count) == (2, 1)
    assert "User-inserted graph break" in str(explained.break_reasons[0].reason)
    torch._dynamo.reset()
    (ours, compiled), (theirs, eager) = training(), training()
    compiled = torch.compile(compiled, backend="aot_eager")
    for _ in range(3):
        compiled(REAL, FAKE)
        eager(REAL, FAKE)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["autograd", "hooks"])
# what was compiled for another test, or by another process, is not to be found again
@functorch_config.patch(enable_autograd_cache=False)
def test_a_compiled_module_that_an_earlier_backward_has_used_up(engine):
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 2))  # saves what it may overwrite
    compiled = torch.compile(net, backend="aot_eager")
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), Sum(), engine=engine)

    def losses():
        y = compiled(REAL)
        return {"first": y[:, 0].square().mean(), "second": y[:, 1].square().mean()}

    opt.backward(losses())  # retains the graph the first time
    torch._dynamo.reset()
    compiled(REAL).sum().backward()  # does not, and the backward pass is compiled for that
    before = [p.grad.clone() for p in net.parameters()]
    opt.zero_grad()
    for p, grad in zip(net.parameters(), before, strict=True):
        p.grad = grad
    with pytest.raises(RuntimeError, match=r"donated_buffer = False"):
        opt.backward(losses())
    assert all(p.grad is grad for p, grad in zip(net.parameters(), before, strict=True))
    torch._dynamo.reset()
    opt.zero_grad()
    opt.backward(losses())


@pytest.mark.slow
def test_rules_imported_before_torch():
    """Which array library a rule is given is found out while it is traced."""
    code = """
import gradweight.rules
import torch
rule = gradweight.rules.AngleBisector()
gram = torch.tensor([[4.0, 1.0], [1.0, 9.0]])
print(torch.equal(torch.compile(rule, fullgraph=True, backend="eager")(gram), rule(gram)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.split() == ["True"], run.stderr


def test_a_gram_matrix_without_rows_says_that_a_compiled_module_is_not_for_it():
    net = torch.compile(nn.Linear(3, 2), backend="aot_eager")
    opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), AngleBisector(), engine="gram")
    a, b = net(torch.ones(1, 3))[0]
    with pytest.raises(RuntimeError, match=r"engine='gram' could not vectorise .* a compiled module"):
        opt.backward({"a": a, "b": b})
    assert all(p.grad is None for p in net.parameters())
