"""A combination that is recorded once and replayed gives what is given operation by operation."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch

from gradweight.rules import CRMOGM, DWA, AngleBisector, GradDrop, PINNAnnealing, UPGrad
from gradweight.step import replay

from ..representatives import others_slow
from .replaying import DEVICE, Net, Training, close, compare, the_same

pytest.importorskip("triton")

# the interpreter calculates with NumPy, which warns of inf and NaN
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
    pytest.mark.usefixtures("triton_language"),
]
if DEVICE == "cuda":  # then these are what the marker is for
    pytestmark += [pytest.mark.cuda]


@pytest.mark.parametrize("claims", others_slow())
@pytest.mark.parametrize("accumulate", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["", "in place"])
def test_every_rule_is_replayed(claims, accumulate, graphs):
    low, high = claims.losses
    m = min(high, max(low, 3))
    # one backward has no Gram matrix to form, and averages lie elsewhere in memory after every step
    not_recorded = claims.averages or not getattr(claims.rule, "needs_gradients", True)
    # a rule that is shown a state has another kind of step after the first
    compare(
        lambda **options: Training(claims.rule, m, claims.signals, accumulate=accumulate, **options),
        graphs,
        replays=0 if not_recorded else None,
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
    [recorded] = training.opt._step.settings.replay._kinds.values()
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
    assert len(ours.opt._step.settings.replay._kinds) == 2
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
