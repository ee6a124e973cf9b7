"""SoftAdapt against its three variants, by hand."""

import numpy as np
import pytest

from gradweight.rules import ReLoBRaLo, SoftAdapt


@pytest.mark.parametrize("rates", ["differences", "normalized", "ratios"])
@pytest.mark.parametrize("weigh_by_loss", [False, True])
def test_is_the_formula(rates, weigh_by_loss):
    rule, gram = SoftAdapt(beta=0.3, rates=rates, weigh_by_loss=weigh_by_loss), np.eye(3)
    before, now = np.array([1.0, 2.0, 4.0]), np.array([0.5, 3.0, 4.0])
    first, state = rule.update(gram, rule.init(gram), losses=before)
    np.testing.assert_allclose(first, 1)
    rate = {
        "differences": np.array([-0.5, 1.0, 0.0]),
        "normalized": np.array([-0.5, 1.0, 0.0]) / 1.5,
        "ratios": np.array([0.5, 1.5, 1.0]),
    }[rates]
    powers = np.exp(0.3 * rate) * (now if weigh_by_loss else 1)
    np.testing.assert_allclose(rule.update(gram, state, losses=now)[0], 3 * powers / powers.sum(), rtol=1e-13)


def test_ratios_are_the_last_step_of_relobralo():
    losses = np.random.default_rng(0).uniform(0.5, 2, (5, 4))
    ours, other, gram = SoftAdapt(beta=2.0, rates="ratios"), ReLoBRaLo(alpha=0.0, temperature=0.5), np.eye(4)
    states = ours.init(gram), other.init(gram)
    for step in range(5):
        one, first = ours.update(gram, states[0], losses=losses[step])
        two, second = other.update(gram, states[1], losses=losses[step], step=step)
        states = first, second
        np.testing.assert_allclose(one, two, rtol=1e-13)


def test_losses_that_stand_still_are_equal():
    for rates in ("differences", "normalized", "ratios"):
        rule, gram = SoftAdapt(rates=rates), np.eye(2)
        _, state = rule.update(gram, rule.init(gram), losses=np.array([1.0, 5.0]))
        np.testing.assert_allclose(rule.update(gram, state, losses=np.array([1.0, 5.0]))[0], 1)


def test_errors():
    with pytest.raises(ValueError, match="SoftAdapt needs rates 'differences', 'normalized' or 'ratios'; got 'slopes'"):
        SoftAdapt(rates="slopes")
    with pytest.raises(ValueError, match="SoftAdapt needs beta"):
        SoftAdapt(beta=float("nan"))
