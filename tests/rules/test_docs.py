"""The page on rules: its table is the list of claims, and its code runs and keeps its claims."""

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gradweight import MultiObjectiveGradient, rules
from gradweight.rules import AngleBisector
from gradweight.rules.claims import CLAIMS, claims_table

from . import test_claims, test_every_rule

PAGE = (Path(__file__).parents[2] / "docs" / "rules.md").read_text()


def blocks(heading: str) -> list[str]:
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_table_is_the_list_of_claims():
    between = re.search(r"<!-- claims:.*?-->\n(.*?)\n<!-- end of claims -->", PAGE, re.DOTALL)
    assert between is not None
    assert between[1].strip() == claims_table(), "run `python -m gradweight.rules.claims docs/rules.md`"


def test_every_rule_says_when_to_use_it_and_the_prose_names_rules_that_are_there():
    assert all(claims.use for claims in CLAIMS)
    prose = PAGE.split("## Which rule for which problem")[1].split("## What each rule claims")[0]
    named = set(re.findall(r"`([A-Z]\w+)[(`]", prose))
    assert len(named) > 30
    assert named <= set(rules.__all__)


def test_the_warning_about_equal_angles():
    section = PAGE.split("### Equal angles among three or more losses\n")[1].split("\n## ")[0]
    test = doctest.DocTestParser().get_doctest(section, {}, "docs/rules.md", None, 0)
    assert len(test.examples) == 8
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0
    # and what it says of two losses, and of a gradient still nearer to the others
    rows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.01]])
    direction = AngleBisector()(rows @ rows.T) @ rows
    cosines = rows @ direction / np.linalg.norm(rows, axis=1) / np.linalg.norm(direction)
    np.testing.assert_allclose(np.degrees(np.arccos(cosines)), 89, atol=0.05)


def test_own_rule_runs_and_keeps_its_claims(tmp_path, monkeypatch):
    # a module of its own, since the compiler looks up the globals of what it traces by the module's name
    (tmp_path / "capped.py").write_text("\n".join(blocks("Write your own")))
    monkeypatch.syspath_prepend(tmp_path)
    capped = importlib.import_module("capped")
    claims = capped.claims
    for test in (
        test_claims.test_scales_with_its_degree,
        test_claims.test_order_of_losses_does_not_matter,
        test_claims.test_moves_wherever_all_losses_can_fall,
        test_claims.test_derivative_is_that_of_finite_differences,
        test_every_rule.test_finite_and_zero_gradients_left_out,
        test_every_rule.test_both_forms_have_one_direction,
        test_every_rule.test_vmap_is_a_loop,
        test_every_rule.test_runs_on_fake_tensors,
        test_every_rule.test_compiled_is_eager,
    ):
        test(claims)

    p = torch.nn.Parameter(torch.zeros(2))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), capped.Capped(most=2.0))
    seen = opt.backward({"a": p[0], "b": 8 * p[1]})
    torch.testing.assert_close(seen.weights, torch.tensor([1.0, 0.25]))


def test_block_on_the_peer_runs():
    pytest.importorskip("torchjd")
    space: dict = {}
    (block,) = blocks("Rules from TorchJD")
    exec(block, space)
    torch.testing.assert_close(space["rule"](torch.eye(2)), torch.full((2,), 0.5))
