"""Trainings whose combinations are recorded and replayed, beside others whose are not.

Without a GPU, `Graph` is in the place of the CUDA graph, and Triton's interpreter runs the kernels: every operation of
torch and every launch is done again on the memory that it was recorded with, so that what still looks at an earlier
step's gradients gives other numbers.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from gradweight import MultiObjectiveGradient
from gradweight.linalg import kernels
from gradweight.rules.claims import NAMES
from tests.recording import Recording

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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
