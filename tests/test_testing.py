"""check_rule passes every rule of the library, and says of a rule that is wrong what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradweight.rules.claims import CLAIMS, NAMES
from gradweight.testing import check_rule


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda c: c.name)
def test_every_rule_passes(claims) -> None:
    low, high = claims.losses
    check_rule(claims.rule, losses=NAMES[: min(high, max(low, 3))], signals=claims.signals)


class Remembers:
    def __init__(self) -> None:
        self.longest = 0.0

    def __call__(self, gram, /):
        self.longest = max(self.longest, float(gram.diagonal().max()))
        return gram.new_ones(len(gram))


class WritesToItsInput:
    def __call__(self, gram, /):
        if len(gram) > 2:  # not where it is tried out when an optimizer is built
            gram[0, 0] = 1
        return gram[0] * 0 + 1


class Draws:
    def __call__(self, gram, /):
        return torch.rand(len(gram)).to(gram)


class Divides:
    def __call__(self, gram, /):
        return 1 / gram.diagonal().sqrt()


class InFloat32:
    def __call__(self, gram, /):
        return gram.float()[0] * 0 + 1


class OneShort:
    def __call__(self, gram, /):
        return gram[0, 1:] * 0 + 1 if len(gram) > 2 else gram[0] * 0 + 1


class Reads:
    def __call__(self, gram, /):
        return gram[0] * 0 + float(gram[0, 0])


class ReadsWhatOneProblemHas:
    def __call__(self, gram, /):
        return gram[0] * 0 + (1 if gram[0, 0] > 1 else 2)


class TensorsOnly:
    def __call__(self, gram, /):
        return torch.ones_like(gram[0])


class OtherOfArrays:
    def __call__(self, gram, /):
        return gram[0] * 0 + (2 if isinstance(gram, np.ndarray) else 1)


class Grows:
    def init(self, gram, /):
        return {"seen": gram[:1, 0] * 0}

    def update(self, gram, state, /):
        return gram[0] * 0 + 1, {"seen": torch.cat([state["seen"], state["seen"]])}


class KeepsNumbers:
    def init(self, gram, /):
        return {"count": gram[0, 0] * 0}

    def update(self, gram, state, /):
        return gram[0] * 0 + 1, {"count": state["count"] + 1 if len(gram) < 3 else 1.0}


class WritesToItsState:
    def init(self, gram, /):
        return {"count": gram[0, 0] * 0}

    def update(self, gram, state, /):
        if len(gram) > 2:
            state["count"].add_(1)
        return gram[0] * 0 + 1, {"count": state["count"] + 0}


class NoDirection:
    def combine(self, rows, /):
        return rows.mean(0) if len(rows) < 3 else rows.mean()


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Remembers(), "Remembers must not change itself"),
        (WritesToItsInput(), "must leave the Gram matrix that it is given as it is"),
        (Draws(), "Draws must decide the same of the same Gram matrix; got"),
        (Divides(), r"Divides must give finite numbers; got .*inf"),
        (InFloat32(), r"in the dtype that it is shown, torch.float64; got torch.float32"),
        (ReadsWhatOneProblemHas(), "must decide under torch.func.vmap; "),
        (Reads(), "must decide under torch.func.vmap; "),
        (TensorsOnly(), "must decide of NumPy arrays too .*, or say arrays=False"),
        (OtherOfArrays(), "must decide of NumPy arrays what it decides of tensors"),
        (Grows(), r"must return a state like the one that it is given, {'seen': \(\(1,\), "),
        (WritesToItsState(), "must leave the state that it is given as it is"),
        (NoDirection(), r"combine\(\) of NoDirection must return a tensor of shape \(5,\); got \(\)"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_what_is_wrong_is_said(rule: Any, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        check_rule(rule)


@pytest.mark.parametrize(
    ("rule", "error", "text"),
    [
        (OneShort(), ValueError, r"OneShort"),
        (
            KeepsNumbers(),
            TypeError,
            "KeepsNumbers must return a state that is a dict name -> tensor; got 'count': float",
        ),
        (lambda: 1, TypeError, "must take"),
    ],
)
def test_what_is_no_rule_is_an_error_of_the_wrapper(rule: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        check_rule(rule)


class UsesASolver:
    """Host code, said to be so."""

    def __call__(self, gram, /):
        return torch.ones(len(gram), dtype=gram.dtype) * float(np.linalg.norm(gram.numpy()) > 0)


def test_what_may_be_left_out() -> None:
    with pytest.raises(AssertionError, match="vmap"):
        check_rule(UsesASolver())
    check_rule(UsesASolver(), reads_values=True, arrays=False)
    check_rule(TensorsOnly(), arrays=False)
