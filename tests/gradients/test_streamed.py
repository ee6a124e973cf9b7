"""The Gram matrix from one backward that keeps no rows: the same steps as with rows, in less memory."""

import functools
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from gradweight import MultiObjectiveGradient, rules
from gradweight.gradients.autograd import by_autograd
from gradweight.gradients.streamed import streamed_gram
from gradweight.linalg.gram import gram
from gradweight.rules import MGDA, AngleBisector, GradDrop, UPGrad

from .streamed_steps import wrapped

pytestmark = pytest.mark.usefixtures("double")


def conv():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    out = net(torch.randn(5, 1, 4, 4))
    return list(net.parameters()), [out[:, i].square().mean() for i in range(3)]


def twice():
    """One matrix for two layers, and for both losses."""
    w, b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
    h = (torch.randn(6, 4) @ w).tanh() @ w + b
    return [w, b], [h.square().mean(), (h.exp() @ w).mean()]


def heads():
    """A head for each loss, a frozen layer in the trunk, and a parameter that no loss reaches."""
    trunk, frozen = nn.Linear(3, 4), nn.Linear(4, 4).requires_grad_(False)
    several = [nn.Linear(4, 1) for _ in range(4)]
    unused = nn.Parameter(torch.ones(2))
    features = frozen(trunk(torch.randn(7, 3)).tanh()).sin()
    params = [p for module in (trunk, *several) for p in module.parameters()] + [unused]
    return params, [head(features).square().mean() for head in several]


def apart():
    """Graphs that share nothing, and 0-dim parameters."""
    a, b = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor([1.0, 3.0]))
    return [a, b], [a**3, b.square().sum(), 2 * a]


def complex_entries():
    w = nn.Parameter(torch.randn(3, 2, dtype=torch.complex128))
    out = torch.randn(5, 3, dtype=torch.complex128) @ w
    return [w], [out.abs().square().mean(), (out.real * out.imag).mean()]


class Forgets(torch.autograd.Function):
    """A rule for `torch.vmap` that gives the gradient of the first loss for all."""

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return ForgetsBackward.apply(gradient, *ctx.saved_tensors)


class ForgetsBackward(torch.autograd.Function):
    @staticmethod
    def forward(gradient, x):
        return 2 * gradient * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        return

    @staticmethod
    def vmap(info, in_dims, gradient, x):
        return 2 * gradient[0] * x, None


def test_what_torch_vectorises_wrongly_is_an_error():
    w = nn.Parameter(torch.randn(3, 2))
    for distances in (torch.cdist(w, torch.randn(3, 2)), torch.cdist(w, w + 1, p=1.0)):
        losses = {str(i): loss for i, loss in enumerate(distances.sum(1).unbind())}
        with pytest.raises(RuntimeError, match=r"does not go through torch.cdist, .* use engine='autograd'"):
            streamed_gram(losses, [w], None)
    a, b = Forgets.apply(w).sum(1)[:2]
    with pytest.raises(RuntimeError, match="could not vectorise"):
        streamed_gram({"a": a, "b": b}, [w], None)


@pytest.mark.parametrize("problem", [conv, twice, heads, apart, complex_entries])
@pytest.mark.parametrize("scale", [None, 8.0])
def test_the_matrix_is_that_of_rows(problem, scale):
    params, losses = problem()
    scale = None if scale is None else torch.tensor(scale)
    expected = gram(list(by_autograd(losses, params, [True] * len(losses), scale)))
    found = streamed_gram({str(i): loss for i, loss in enumerate(losses)}, params, scale)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12 * expected.abs().max().item())
    assert torch.equal(found, found.mT)


BY_GRAM = [
    "AlignedMTL", "AngleBisector", "CAGrad", "ConFIG", "DualProj", "FairGrad", "IMTLG", "MGDA", "Mean", "NashMTL",
    "NormBalance", "PCGrad", "SDMGrad", "Sum", "UPGrad",
]  # fmt: skip


@pytest.mark.parametrize("name", BY_GRAM)
def test_a_step_is_that_of_rows(name):
    def step(engine):
        torch.manual_seed(1)
        params, losses = heads()
        opt = MultiObjectiveGradient(torch.optim.SGD(params, lr=0.1), getattr(rules, name)(), engine=engine)
        seen = opt.backward({str(i): loss for i, loss in enumerate(losses)})
        grads = [p.grad for p in params]
        opt.step()
        return seen, grads

    (expected, rows), (found, direction) = step("autograd"), step("gram")
    # the rules' solvers magnify the rounding of the Gram matrix by its condition
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.losses, expected.losses, rtol=0, atol=0)
    for a, b in zip(direction, rows, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_join_a_scaler_functions_and_missing_losses():
    w, opt = wrapped()
    (4 * opt.join({"a": 3 * w[0], "b": 4 * w[1]})).backward()
    assert w.grad.tolist() == [4.0, 4.0]
    assert opt.last.norms.tolist() == [3.0, 4.0]

    w, opt = wrapped()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    seen = opt.backward({"a": 3 * w[0], "b": 4 * w[1]}, scaler=scaler)
    assert w.grad.tolist() == [8.0, 8.0]
    assert seen.gram.diagonal().tolist() == [9.0, 16.0]

    w, opt = wrapped(params=None)
    opt = MultiObjectiveGradient(torch.optim.SGD([("w", w)], lr=0.1), AngleBisector(), engine="gram")
    opt.backward(lambda p: {"a": 3 * p["w"][0], "b": 4 * p["w"][1]})
    assert w.grad.tolist() == [1.0, 1.0]

    w, opt = wrapped(rules.Sum())
    seen = opt.backward({"a": 3 * w[0], "none": None, "b": 4 * w[1]})
    assert seen.gram.diagonal().tolist() == [9.0, 0.0, 16.0]
    assert opt.engine_used == "gram"
    assert w.grad.tolist() == [3.0, 4.0]


def test_held_weights():
    w, opt = wrapped(refresh_every=2)
    for _ in range(2):
        opt.zero_grad()
        opt.backward({"a": 3 * w[0], "b": 4 * w[1]})
        opt.step()
        assert w.grad.tolist() == [1.0, 1.0]


def test_nothing_steps_by_half():
    w, opt = wrapped()
    other = nn.Parameter(torch.ones(1))
    opt.add_param_group({"params": [other]})
    seen = opt.backward({"a": 3 * w[0] * torch.inf, "b": other.sum()})
    assert seen.weights.isnan().all()
    assert w.grad.isnan().all()
    assert other.grad.isnan().all()


def test_under_autocast_it_is_the_matrix_of_rows():
    def seen(engine):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).float()
        opt = MultiObjectiveGradient(torch.optim.SGD(net.parameters(), lr=0.1), UPGrad(), engine=engine)
        with torch.autocast("cpu"):
            out = net(torch.randn(6, 4, dtype=torch.float32))
            return opt.backward({str(i): out[:, i].float().square().mean() for i in range(2)})

    # products in bfloat16, whose rounding of 2**-8 depends on how a vectorised product goes through them
    torch.testing.assert_close(seen("gram").gram, seen("autograd").gram, rtol=0.03, atol=1e-4)


def test_what_it_cannot_do_is_said():
    with pytest.raises(ValueError, match="reads no entries of gradients; got blocks=None and GradDrop"):
        wrapped(GradDrop())
    with pytest.raises(ValueError, match=r"engine='gram' .* got blocks='layer'"):
        wrapped(blocks="layer")
    w, opt = wrapped()
    loss = checkpoint(torch.sin, w, use_reentrant=True).sum()
    with pytest.raises(RuntimeError, match="engine='gram' cannot see through"):
        opt.backward({"a": loss, "b": w.sum()})
    with pytest.raises(ValueError, match="'b' reaches none"):
        opt.backward({"a": w.sum(), "b": nn.Parameter(torch.ones(1)).sum()})
    table = nn.Embedding(3, 2, sparse=True)
    opt = MultiObjectiveGradient(torch.optim.SGD(table.parameters()), MGDA(), engine="gram")
    with pytest.raises(RuntimeError, match="engine='gram' could not vectorise"):
        opt.backward({"a": table(torch.tensor([1])).sum(), "b": table(torch.tensor([2])).sum()})
    assert table.weight.grad is None
    assert not table.weight._backward_hooks


class Peak(TorchDispatchMode):
    """The most elements that were alive at once in results of operations, each memory counted once."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.most = set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata not in self.alive:
                storage = t.untyped_storage()
                n = storage.nbytes() // t.element_size()
                self.alive.add(storage._cdata)
                self.now += n
                self.most = max(self.most, self.now)
                weakref.finalize(storage, functools.partial(self._freed, storage._cdata, n))
        return out

    def _freed(self, key, n):
        self.alive.discard(key)
        self.now -= n


def test_no_row_exists():
    """Of eight equal layers and eight losses, the rows are 64 layers; one layer's gradients, their copy in double
    precision and what goes on to the next are far fewer."""
    net = nn.Sequential(*[nn.Linear(64, 64, bias=False) for _ in range(8)])
    params, x = list(net.parameters()), torch.randn(2, 64)

    def most(engine):
        opt = MultiObjectiveGradient(torch.optim.SGD(params, lr=0.1), UPGrad(), engine=engine)
        out = net(x)
        losses = {str(i): out[:, i].square().mean() for i in range(8)}
        with Peak() as peak:
            opt.backward(losses)
        return peak.most / 64**2

    rows, streamed = most("autograd"), most("gram")
    assert rows > 64
    assert streamed < 40, streamed
