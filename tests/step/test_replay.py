"""A combination that is recorded once and replayed gives what is given operation by operation.

Without a GPU, `Recording` (tests/recording.py) is in the place of the CUDA graph, and Triton's interpreter runs the
kernels: every operation of torch and every launch is done again on the memory that it was recorded with, so that what
still looks at an earlier step's gradients gives other numbers.
"""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from gradweight import MultiObjectiveGradient
from gradweight.linalg import gram, kernels
from gradweight.linalg import weighted_sum as weighted_sum_module
from gradweight.rules import CRMOGM, DWA, AngleBisector, GradDrop, PINNAnnealing, UPGrad
from gradweight.rules.claims import CLAIMS, NAMES
from gradweight.step import combiner, cuda_graph, replay
from tests.recording import Recording

pytest.importorskip("triton")

# the interpreter calculates with NumPy, which warns of inf and NaN
pytestmark = [pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cuda":  # then these are what the marker is for
    pytestmark += [pytest.mark.cuda]


class Graph:
    """What a CUDA graph does, on a CPU."""

    def __init__(self, device):
        self.recording = Recording()
        self.replays = 0

    def capture(self, function):
        def launch(kernel, programs, *args, **constants):
            with _disable_current_modes():
                self.recording.calls.append((lambda: run(kernel, programs, *args, **constants), (), {}, None))

        run, kernels.launch = kernels.launch, launch
        try:
            with self.recording:
                function()
        finally:
            kernels.launch = run
        # memory that is set aside is no operation, and what lies in it is not to be replaced by other garbage
        self.recording.calls = [call for call in self.recording.calls if "empty" not in str(call[0])]

    def replay(self):
        self.replays += 1
        self.recording.replay()


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """The graphs that are recorded."""
    made = []

    def counted(device):
        made.append(Graph(device) if DEVICE == "cpu" else Counted(device))
        return made[-1]

    class Counted(cuda_graph.CudaGraph):
        replays = 0

        def replay(self):
            self.replays += 1
            super().replay()

    monkeypatch.setitem(replay.GRAPHS, DEVICE, counted)
    if DEVICE == "cpu":  # as on a device: nothing is read back, and kernels do what there are kernels for
        kernels.DEVICES.add(DEVICE)
        kernels._kept_chunks.cache_clear()
        monkeypatch.setattr(kernels, "CHUNK", 64)
        monkeypatch.setattr(kernels, "_BLOCK", 32)
        monkeypatch.setattr(kernels, "_MANY_BLOCK", 32)
        monkeypatch.setattr(gram, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(combiner, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(weighted_sum_module, "is_launch_bound", lambda device: True)
        monkeypatch.setitem(gram.CUTS, "cpu", gram.CUTS["cuda"])
    yield made
    if DEVICE == "cpu":
        kernels.DEVICES.discard(DEVICE)
        kernels._kept_chunks.cache_clear()


class Net(nn.Module):
    """A trunk and heads; a layer that only the first loss reaches, and one that none does."""

    def __init__(self, m, dtype=torch.float32):
        super().__init__()
        self.trunk = nn.Linear(3, 4, dtype=dtype)
        self.heads = nn.Linear(4, m, dtype=dtype)
        self.first = nn.Linear(4, 1, dtype=dtype)
        self.unused = nn.Linear(2, 2, dtype=dtype)

    def forward(self, x):
        features = torch.tanh(self.trunk(x))
        out = self.heads(features)
        return features, torch.cat([out[:, :1] + self.first(features), out[:, 1:]], 1)


class Training:
    """Steps on other data each, through an optimizer with a rule."""

    def __init__(self, rule, m=3, signals=None, net=None, shared=False, scaler=None, **options):
        torch.manual_seed(3)
        self.names = NAMES[:m]
        self.net = (net or Net(m)).to(DEVICE)
        self.signals = signals or {}
        self.shared = shared
        self.scaler = scaler
        base = torch.optim.SGD(self.net.named_parameters(), lr=0.05, momentum=0.5, foreach=False)
        self.opt = MultiObjectiveGradient(base, rule, **options)
        self.steps = 0
        self.held = []  # what would be freed, so that gradients lie somewhere else on every step

    def backward(self, names=None):
        self.steps += 1
        generator = torch.Generator().manual_seed(self.steps)
        dtype = self.net.trunk.weight.dtype
        x = torch.randn(5, 3, generator=generator).to(DEVICE, dtype)
        features, out = self.net(x)
        losses = {
            name: (out[:, i] - i).abs().square().mean() + 0.1
            for i, name in enumerate(self.names)
            if names is None or name in names
        }
        signals = {name: value + self.steps / 1000 for name, value in self.signals.items()}
        self.held.append(torch.empty(self.steps * 3, device=DEVICE))
        at = features if self.shared else None
        return self.opt.backward(losses, shared=at, scaler=self.scaler, **signals)

    def step(self, micro_batches=1, names=None):
        self.opt.zero_grad()
        for _ in range(micro_batches):
            seen = self.backward(names)
        grads = [None if p.grad is None else p.grad.clone() for p in self.net.parameters()]
        if self.scaler is None:
            self.opt.step()
        else:
            self.scaler.step(self.opt)
            self.scaler.update()
        return seen, grads


def close(ours, theirs):
    # what kernels add up is the same either way; other operations are the very same
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7, equal_nan=True)


def the_same(seen, other):
    assert seen.names == other.names
    close([seen.losses, seen.gram, seen.weights], [other.losses, other.gram, other.weights])
    assert seen.blocks.keys() == other.blocks.keys()
    for name, block in seen.blocks.items():
        the_same(block, other.blocks[name])


def compare(make, graphs, steps=5, replays=None, step=lambda training, i: training.step()):
    """Steps of two trainings, one of which replays; returns that one."""
    ours, theirs = make(cuda_graphs=True), make(cuda_graphs=False)
    theirs.net.load_state_dict(ours.net.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(steps):
            (seen, grads), (plain, plain_grads) = step(ours, i), step(theirs, i)
            the_same(seen, plain)
            close(grads, plain_grads)
    done = sum(graph.replays for graph in graphs)
    assert done == replays if replays is not None else done > 0
    close(list(ours.net.parameters()), list(theirs.net.parameters()))
    close(ours.opt._step.saved(), theirs.opt._step.saved())
    return ours


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)
@pytest.mark.parametrize("accumulate", [True, False], ids=["", "in place"])
def test_every_rule_is_replayed(claims, accumulate, graphs):
    low, high = claims.losses
    m = min(high, max(low, 3))
    one_backward = not getattr(claims.rule, "needs_gradients", True)
    # a rule that is shown a state has another kind of step after the first
    compare(
        lambda **options: Training(claims.rule, m, claims.signals, accumulate=accumulate, **options),
        graphs,
        replays=0 if one_backward else None,
    )


RULES = [AngleBisector(), CRMOGM(UPGrad()), PINNAnnealing(residual="a"), GradDrop()]
OPTIONS = {
    "layers": {"blocks": "layer"},
    "layers, in place": {"blocks": "layer", "accumulate": False},
    "a block left alone": {"blocks": lambda name: "trunk" if name.startswith("trunk") else None},
    "batched": {"engine": "batched"},
    "hooks": {"engine": "hooks"},
    "shared": {"shared": True},
}
of_each_kind = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


@of_each_kind
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is(rule, options, graphs):
    compare(lambda **more: Training(rule, **options, **more), graphs)


@of_each_kind
def test_micro_batches_add_up(rule, graphs):
    compare(lambda **options: Training(rule, **options), graphs, step=lambda training, i: training.step(3))


@of_each_kind
def test_a_loss_scale_is_undone(rule, graphs):
    def make(**options):
        return Training(rule, scaler=torch.amp.GradScaler(DEVICE, init_scale=8.0, growth_interval=10**6), **options)

    def step(training, i):
        if i:
            training.scaler.update(2.0**-i)
        return training.step()

    compare(make, graphs, step=step)


@of_each_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
def test_every_dtype_is(rule, dtype, graphs):
    if dtype == torch.bfloat16 and isinstance(rule, GradDrop):
        pytest.skip("two roundings of one number may differ")
    ours = compare(lambda **options: Training(rule, net=Net(3, dtype), **options), graphs, steps=4)
    assert ours.net.trunk.weight.grad.dtype == dtype


class TransposedGradient(torch.autograd.Function):
    """The identity, whose gradient comes in another order of elements."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.t().contiguous().t()


def test_gradients_in_another_order_of_elements_are_copied(graphs):
    class Transposed(Net):
        def forward(self, x):
            features, out = super().forward(x)
            w = self.unused.weight
            return features, out + torch.stack([TransposedGradient.apply(w).square().sum(), w.sum(), out[0, 2]])

    training = compare(lambda **options: Training(AngleBisector(), net=Transposed(3), **options), graphs)
    [recorded] = training.opt._step.settings.combine._kinds.values()
    assert sum(recorded._copied) == 4  # its gradients and the direction


def test_sets_of_losses_come_and_go(graphs):
    sets = [None, ("a", "b"), ("c",)]
    compare(
        lambda **options: Training(CRMOGM(UPGrad()), **options),
        graphs,
        steps=15,
        step=lambda training, i: training.step(names=sets[i % 3]),
    )
    assert len(graphs) == 3


def test_no_more_recordings_are_kept_than_promised(graphs, monkeypatch):
    monkeypatch.setattr(replay, "KEPT", 2)
    sets = [None, ("a", "b"), ("c",)]
    step = lambda training, i: training.step(names=sets[i // 4 % 3])  # noqa: E731
    ours = compare(lambda **options: Training(AngleBisector(), **options), graphs, steps=24, step=step)
    assert len(ours.opt._step.settings.combine._kinds) == 2
    assert len(graphs) == 6


def test_a_frozen_parameter_is_another_kind_of_step(graphs):
    def step(training, i):
        training.net.trunk.bias.requires_grad_(i < 3)
        return training.step()

    compare(lambda **options: Training(AngleBisector(), **options), graphs, steps=7, step=step)
    assert len(graphs) == 2


def test_what_was_returned_outlives_the_next_replay(graphs):
    training = Training(AngleBisector(), history=3)
    for _ in range(4):
        training.step()
    seen = training.opt.last
    before = [t.clone() for t in (seen.losses, seen.gram, seen.weights)]
    history = list(training.opt.history)
    for _ in range(3):
        training.step()
    assert [torch.equal(a, b) for a, b in zip(before, (seen.losses, seen.gram, seen.weights), strict=True)] == [
        True
    ] * 3
    assert history[-1] is seen
    assert not torch.equal(training.opt.last.gram, seen.gram)
    assert graphs[0].replays == 6


def test_what_is_not_finite_reaches_the_whole_direction(graphs):
    training = Training(AngleBisector())
    for _ in range(3):
        training.step()
    with torch.no_grad():
        training.net.first.weight[0, 0] = torch.inf
    seen, grads = training.step()
    assert graphs[0].replays == 3
    assert seen.weights.isnan().all()
    assert all(g is None or g.isnan().all() for g in grads)


class Reads:
    """A rule that no graph can record."""

    def __call__(self, gram, /):
        return gram.new_ones(len(gram)) * float(gram.trace() > 0)


def test_a_rule_that_reads_a_value_warns_once_and_trains_on(graphs):
    ours, theirs = Training(Reads()), Training(Reads(), cuda_graphs=False)
    pairs = [(ours.step(), theirs.step())]
    with pytest.warns(UserWarning, match=r"Reads.* cannot be recorded as a CUDA graph"):
        pairs.append((ours.step(), theirs.step()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pairs += [(ours.step(), theirs.step()) for _ in range(3)]
    for (seen, grads), (plain, plain_grads) in pairs:
        the_same(seen, plain)
        close(grads, plain_grads)
    assert [graph.replays for graph in graphs] == [0]
    # nothing of the attempt is left: random numbers, memory, other graphs
    assert torch.rand(4, device=DEVICE).numel() == 4
    compare(lambda **options: Training(AngleBisector(), **options), graphs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])
def test_a_copy_records_anew(copied, graphs):
    training = Training(CRMOGM(UPGrad()))
    for _ in range(4):
        training.step()
    other = copied(training)
    for _ in range(4):
        (seen, grads), (again, more) = training.step(), other.step()
        the_same(seen, again)
        close(grads, more)
    assert [graph.replays > 0 for graph in graphs] == [True, True]


def test_large_gradients_that_would_have_to_be_copied_are_not(graphs, monkeypatch):
    monkeypatch.setattr(replay, "MOST_COPIED", 10)
    compare(lambda **options: Training(GradDrop(), **options), graphs, replays=0)
    compare(lambda **options: Training(AngleBisector(), **options), graphs)


def test_a_rule_by_losses_alone_is_left_as_it_is(graphs):
    compare(lambda **options: Training(DWA(), **options), graphs, replays=0)
