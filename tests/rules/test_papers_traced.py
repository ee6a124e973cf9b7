"""The rules of the papers, in every setting: compiled, and without anything that the host would read."""

from __future__ import annotations

import functools
import shutil

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gradweight.rules import AdaptiveWeights

from ..recording import NothingFromTheHost
from ..strategies import weights_of_gram
from .test_papers import CASES, FAVOUR_REAL, NAMES, Case, every_case


def compiled_equals_eager(case: Case, backend: str) -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5)))
    gram = rows @ rows.mT
    decide = functools.partial(weights_of_gram, case.rule, names=NAMES[:3], **case.given(gram))
    torch.compiler.reset()
    compiled = torch.compile(decide, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(gram), decide(gram), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.signals in ({}, FAVOUR_REAL)], ids=str)
def test_compiled_is_eager(case: Case) -> None:
    compiled_equals_eager(case, "aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_is_eager() -> None:
    """Once, on the rule with the most branches: a full compilation takes seconds."""
    compiled_equals_eager(Case(AdaptiveWeights(), signals=FAVOUR_REAL), "inductor")


def decide_without_values(case: Case, m: int) -> torch.Tensor:
    with FakeTensorMode():
        gram = torch.empty(m, m, dtype=torch.float64, device="meta")
        signals = {name: torch.empty((), dtype=torch.float64, device="meta") for name in case.signals}
        with NothingFromTheHost():
            return weights_of_gram(case.rule, gram, NAMES[:m], **signals)


@every_case
@pytest.mark.parametrize("m", [2, 3, 8])
def test_no_host_synchronisation(case: Case, m: int) -> None:
    """Fake tensors have no values that the host could read, and nothing is copied to their device."""
    assert decide_without_values(case, m).shape == (m,)


def reads_an_item(gram):
    return gram[0] * gram[0, 0].item()


def branches_on_a_value(gram):
    return gram[0] if gram[0, 1] < 0 else gram[1]


def takes_rows_by_number(gram):
    return gram[0][torch.tensor([1, 0], device=gram.device)]


def forgets_the_device(gram):
    return gram[0] * torch.ones(())


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (reads_an_item, DataDependentOutputException),
        (branches_on_a_value, DataDependentOutputException),
        (takes_rows_by_number, AssertionError),
        (forgets_the_device, AssertionError),
    ],
)
def test_a_synchronising_rule_is_found(rule, error: type[Exception]) -> None:
    with pytest.raises(error):
        decide_without_values(Case(rule), 2)
