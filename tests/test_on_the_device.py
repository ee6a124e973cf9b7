"""From `backward` to the end of `step` nothing comes from the host or goes there, whatever the options.

Steps of fake tensors on the "meta" device: whoever reads a value raises, and whoever copies one from the host, for
which a CUDA device would have to be waited for, is seen doing it. The same steps on CUDA, where there is one, in the
mode in which torch raises itself. The base is SGD, since Adam counts its steps on the host unless it runs on CUDA;
`tests/test_no_waiting.py` has both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    DWA,
    MGDA,
    AngleBisector,
    DualProj,
    GradDrop,
    NashMTL,
    PINNAnnealing,
    UPGrad,
)
from gradweight.rules.claims import CLAIMS, NAMES

from .recording import NothingFromTheHost
from .representatives import others_slow

every_rule = pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)
either_way = pytest.mark.parametrize("by_host", [False, True], ids=["backward", "join"])


@pytest.fixture(params=["meta", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    if request.param == "cuda":
        yield "cuda"
        return
    with FakeTensorMode():
        yield "meta"


@contextmanager
def watched(device: str) -> Iterator[None]:
    if device == "meta":
        with NothingFromTheHost():
            yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Training:
    """A trunk, heads and an optimizer with a rule; signals are given as numbers."""

    def __init__(
        self, device: str, rule, m: int = 3, signals: dict[str, float] | None = None, **options: object
    ) -> None:
        self.device = device
        self.trunk = nn.Sequential(nn.Linear(3, 4, device=device), nn.Tanh())
        self.head = nn.Linear(4, m, device=device)
        self.names = NAMES[:m]
        named = [*self.trunk.named_parameters("trunk"), *self.head.named_parameters("head")]
        self.base = torch.optim.SGD(named, lr=0.1, momentum=0.9)
        self.opt = MultiObjectiveGradient(self.base, rule, **options)
        self.x = torch.ones(5, 3, device=device)
        self.signals = signals or {}

    def losses(self) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.trunk(self.x)
        out = self.head(features)
        return features, {name: out[:, i].square().mean() for i, name in enumerate(self.names)}

    def steps(self, backward: Callable[[Training], object], micro_batches: int = 2, steps: int = 2) -> None:
        """Steps, the first of which takes several micro-batches; from the second on there is a state of the rule."""
        for step in range(steps):
            with watched(self.device):
                self.opt.zero_grad()
                for _ in range(1 if step else micro_batches):
                    backward(self)
                self.opt.step()
        assert self.head.weight.grad.device.type == self.device


def plainly(training: Training) -> None:
    training.opt.backward(training.losses()[1], **training.signals)


def by_join(training: Training) -> None:
    (training.opt.join(training.losses()[1], **training.signals) / 2).backward()


def at_features(training: Training) -> None:
    features, losses = training.losses()
    training.opt.backward(losses, shared=features, **training.signals)


def losses_of(claims, most: int) -> int:
    low, high = claims.losses
    return min(high, max(low, most))


@every_rule
def test_no_rule_asks_the_host(device, claims):
    Training(device, claims.rule, losses_of(claims, 3), claims.signals).steps(plainly)


@pytest.mark.parametrize("claims", others_slow())
def test_nor_does_it_for_many_losses(device, claims):
    """For which solvers go another way."""
    Training(device, claims.rule, losses_of(claims, 9), claims.signals).steps(plainly, micro_batches=1, steps=1)


@pytest.mark.parametrize("rule", [UPGrad(), DualProj(), MGDA(), NashMTL()], ids=repr)
@pytest.mark.parametrize("m", [2, 9, 17, 33])
def test_nor_are_many_systems_left_to_a_library_that_waits(device, rule, m):
    gram = torch.eye(m, device=device)
    with watched(device):
        assert rule(gram).shape == (m,)


def trunk_alone(name: str) -> str | None:
    return "trunk" if name.startswith("trunk") else None


RULES = [AngleBisector(), UPGrad(), DWA(), PINNAnnealing(residual="a"), GradDrop()]
KINDS = pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)


@KINDS
@pytest.mark.parametrize(
    ("options", "micro_batches"),
    [
        ({"accumulate": False}, 1),
        ({"engine": "hooks"}, 2),
        ({"engine": "batched"}, 2),
        ({"blocks": "layer"}, 2),
        ({"blocks": "group", "accumulate": False}, 1),
        ({"blocks": trunk_alone}, 2),
        ({"history": 2}, 2),
    ],
    ids=["in place", "hooks", "batched", "layers", "groups, in place", "trunk", "history"],
)
@either_way
def test_no_option_asks_the_host(device, rule, options, micro_batches, by_host):
    Training(device, rule, **options).steps(by_join if by_host else plainly, micro_batches)


@pytest.mark.parametrize("rule", [rule for rule in RULES if not isinstance(rule, GradDrop)], ids=repr)
@either_way
def test_held_weights_stay_on_the_device(device, rule, by_host):
    Training(device, rule, refresh_every=2).steps(by_join if by_host else plainly, steps=3)


@KINDS
def test_a_shared_tensor_asks_nobody(device, rule):
    Training(device, rule).steps(at_features, 1)


@KINDS
def test_a_scale_stays_on_the_device(device, rule):
    scaler = torch.amp.GradScaler("cuda" if device == "cuda" else "cpu")
    scaler.scale(torch.ones((), device=device))  # makes the scale

    def scaled(training: Training) -> None:
        training.opt.backward(training.losses()[1], scaler=scaler)
        scaler.update(8.0)  # as after a step, or the next call is an error
        scaler.unscale_(training.opt)

    Training(device, rule).steps(scaled)


@KINDS
@pytest.mark.parametrize("several", [False, True], ids=["one function", "several functions"])
def test_functions_of_the_parameters_ask_nobody(device, rule, several):
    training = Training(device, rule)

    def of(i: int) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda p: (p["head.weight"] @ (p["trunk.0.weight"] @ training.x.T))[i].square().mean()

    functions = {name: of(i) for i, name in enumerate(training.names)}
    losses = functions if several else lambda p: {name: f(p) for name, f in functions.items()}
    training.steps(lambda training: training.opt.backward(losses))


@pytest.mark.parametrize(
    "rule",
    [
        lambda gram: gram[0] * gram[0, 0].item(),
        lambda gram: gram[0] if gram[0, 1] < 0 else gram[1],
        lambda gram: gram[0] * torch.tensor([1.0, 2.0, 3.0], device=gram.device),
        lambda gram: torch.linalg.solve_ex(gram, gram[0])[0],
    ],
    ids=["reads", "branches", "copies", "cuSOLVER"],
)
def test_who_asks_the_host_is_noticed(rule):
    """The tests above can fail."""
    with FakeTensorMode(), pytest.raises((DataDependentOutputException, AssertionError)):
        Training("meta", rule).steps(plainly)
