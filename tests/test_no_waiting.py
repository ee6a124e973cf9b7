"""Every rule that acts on the Gram matrix: from `backward` to the end of `step` nothing waits for the device.

On the CPU with fake tensors, which have no values, so that whoever looks at one raises, and by replaying what a whole
step did; on CUDA with the mode in which torch raises itself, and by capturing whole steps in a graph, during which
nothing can be waited for.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gradweight import MultiObjectiveGradient
from gradweight.linalg import gram
from gradweight.linalg import weighted_sum as weighted_sum_module
from gradweight.linalg.gram import CUTS
from gradweight.rule import CoordinateRule
from gradweight.rules.claims import CLAIMS, NAMES, Claims
from gradweight.step import combiner, finite, proposed_averages, refresh
from tests.recording import Recording

every_gram_rule = pytest.mark.parametrize(
    "claims", [c for c in CLAIMS if not isinstance(c.rule, CoordinateRule)], ids=lambda c: c.name
)


class Training:
    """A network, an optimizer with a rule, and steps on as many losses as the rule takes, up to three."""

    def __init__(
        self, claims: Claims, device: str, wrapped: dict[str, object] | None = None, **options: object
    ) -> None:
        low, high = claims.losses
        self.claims = claims
        self.names = NAMES[: min(high, max(low, 3))]
        first, last = nn.Linear(3, 4, device=device), nn.Linear(4, len(self.names), device=device)
        self.net = nn.Sequential(first, nn.Tanh(), last)
        base = torch.optim.Adam(self.net.named_parameters(), lr=0.01, **options)
        self.opt = MultiObjectiveGradient(base, claims.rule, **(wrapped or {}))
        self.x = torch.ones(5, 3, device=device)

    def backward(self):
        out = self.net(self.x)
        losses = {name: out[:, i].square().mean() + 0.1 for i, name in enumerate(self.names)}
        return self.opt.backward(losses, **self.claims.signals)

    def step(self):
        self.opt.zero_grad()
        seen = self.backward()
        self.opt.step()
        return seen


@every_gram_rule
def test_nothing_is_read(claims):
    with FakeTensorMode():
        training = Training(claims, "cpu")
        training.step()
        training.opt.zero_grad()
        training.step()  # from now on there is a state of the rule
        training.opt.zero_grad()
        training.backward()
        seen = training.backward()  # and a second micro-batch
        m = len(training.names)
        assert seen.weights.shape == (m,)
        assert seen.cosines.shape == (m, m)


@pytest.mark.cuda
@every_gram_rule
def test_nothing_synchronises_on_cuda(claims):
    training = Training(claims, "cuda", capturable=True)
    training.step()  # the first step may set things up
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            seen = training.step()
            training.opt.zero_grad()
            training.backward()
            training.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert seen.weights.isfinite().all()


every_rule = pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)


class OnDevice(Training):
    """On a CPU, what is done on a device: nothing is read back, tensors are taken together."""

    def __init__(self, claims, monkeypatch, **options):
        super().__init__(claims, "cpu")
        base = torch.optim.SGD(self.net.named_parameters(), lr=0.05, momentum=0.5, foreach=False)
        self.opt = MultiObjectiveGradient(base, claims.rule, **options)
        monkeypatch.setattr(gram, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(combiner, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(finite, "is_host_readable", lambda tensor: False)
        monkeypatch.setattr(weighted_sum_module, "is_launch_bound", lambda device: True)
        monkeypatch.setattr(proposed_averages, "is_launch_bound", lambda device: True)
        monkeypatch.setitem(CUTS, "cpu", CUTS["cuda"])


def replayed_and_eager(claims, monkeypatch, **options):
    """The parameters after steps of which all but the first two were replayed, and after as many that were taken."""
    eager, recorded = (OnDevice(claims, monkeypatch, **options) for _ in range(2))
    recorded.net.load_state_dict(eager.net.state_dict())
    for _ in range(2):
        recorded.step()
    with Recording() as recording:
        recorded.step()
    for _ in range(3):
        recording.replay()
    for _ in range(6):
        eager.step()
    return list(recorded.net.parameters()), list(eager.net.parameters())


@every_rule
def test_a_recorded_step_goes_on_when_replayed(claims, monkeypatch):
    """The rule's state too: a step that has been recorded reads what it wrote the time before."""
    for ours, theirs in zip(*replayed_and_eager(claims, monkeypatch), strict=True):
        assert torch.equal(ours, theirs)


CAPTURED = [{"accumulate": False}, {"blocks": "layer"}, {"engine": "batched"}, {"engine": "hooks"}]


@pytest.mark.parametrize("options", CAPTURED, ids=str)
def test_a_recorded_step_goes_on_when_replayed_with(options, monkeypatch):
    claims = next(c for c in CLAIMS if c.name == "DWA")
    for ours, theirs in zip(*replayed_and_eager(claims, monkeypatch, **options), strict=True):
        assert torch.equal(ours, theirs)


def test_a_recording_that_reads_is_an_error():
    with pytest.raises(RuntimeError, match="reads a value"), Recording():
        torch.ones(()).item()


def test_held_weights_are_refused_while_a_graph_is_captured(monkeypatch):
    claims = next(c for c in CLAIMS if c.name == "AngleBisector")
    training = OnDevice(claims, monkeypatch, refresh_every=2)
    training.step()
    before = [p.detach().clone() for p in training.net.parameters()]
    monkeypatch.setattr(refresh, "is_captured", lambda tensor: True)
    with pytest.raises(RuntimeError, match=r"refresh_every=2 .* captured"):
        training.step()
    for p, then in zip(training.net.parameters(), before, strict=True):
        assert torch.equal(p, then)


def captured_and_eager(claims, **options):
    """The parameters after steps of which all but the first three were replayed, and after as many that were taken."""
    eager, captured = (Training(claims, "cuda", options, capturable=True) for _ in range(2))
    captured.net.load_state_dict(eager.net.state_dict())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # set things up where no graph records it
            captured.step()
            eager.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for _ in range(3):
        graph.replay()
        eager.step()
    return list(captured.net.parameters()), list(eager.net.parameters())


@pytest.mark.cuda
@every_rule
def test_a_whole_step_is_captured_and_replayed(claims):
    """Forward, backwards, rule and Adam in one CUDA graph: the parameters go where steps one by one take them."""
    for ours, theirs in zip(*captured_and_eager(claims), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.parametrize("options", CAPTURED, ids=str)
def test_a_whole_step_is_captured_and_replayed_with(options):
    claims = next(c for c in CLAIMS if c.name == "DWA")
    for ours, theirs in zip(*captured_and_eager(claims, **options), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
