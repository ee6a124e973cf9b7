"""Signals that a rule does not know, or misses, are named, and everything stays as it was."""

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import AdaptiveWeights, Sum

from .setting import Averaging, Setting, refused

SIGNALS = {
    "missing": (AdaptiveWeights(), {"real_score": 0.5}, r"AdaptiveWeights needs .*'fake_score'.*\['real_score'\]"),
    "none": (AdaptiveWeights(), {}, "AdaptiveWeights needs the signal '(real|fake)_score'.*no signals"),
    "unknown": (
        AdaptiveWeights(),
        {"real_score": 0.5, "fake_score": 0.5, "score": 1.0},
        r"AdaptiveWeights has no signal 'score'; it takes \['fake_score', 'real_score'\]",
    ),
    "unknown to a rule without": (Sum(), {"score": 1.0}, r"Sum has no signal 'score'; it takes none"),
    "one that comes by itself": (Sum(), {"names": ("a", "b")}, "Sum has no signal 'names'"),
    "step": (Averaging(), {"step": 3}, "Averaging has no signal 'step'"),
}


@pytest.mark.parametrize(("rule", "given", "match"), SIGNALS.values(), ids=SIGNALS)
def test_signals(rule, given, match):
    setting, twin = Setting(rule), Setting(rule)
    losses = setting.losses()
    with refused(setting, twin, TypeError, match):
        setting.opt.backward(losses, **given)


@pytest.mark.parametrize(
    ("score", "error", "match"),
    [
        (None, TypeError, "the signal 'real_score' must be a 0-dim tensor or a number; got NoneType"),
        ([0.5], TypeError, "the signal 'real_score' must be a 0-dim tensor or a number; got list"),
        (torch.rand(5), ValueError, r"shape \(2, 5\) \(was it given a signal that is not 0-dim\?\)"),
    ],
)
def test_a_signal_of_another_kind(score, error, match):
    setting, twin = Setting(AdaptiveWeights()), Setting(AdaptiveWeights())
    losses = setting.losses()
    with refused(setting, twin, error, match):
        setting.opt.backward(losses, real_score=score, fake_score=0.5)


def test_a_signal_that_only_some_micro_batches_have():
    setting, twin = (Setting(lambda gram, *, score=None: gram[0] * 0 + 1) for _ in range(2))
    losses = setting.losses()
    with refused(setting, twin, (TypeError, ValueError), "score"):
        setting.opt.backward(losses, score=1.0)


def test_a_signal_that_a_later_micro_batch_lacks():
    w = nn.Parameter(torch.ones(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([w], lr=0.1), lambda gram, *, score=None: gram[0] * 0 + 1)
    opt.backward({"a": w.sum()}, score=1.0)
    with pytest.raises((TypeError, ValueError), match="score"):
        opt.backward({"a": w.sum()})
