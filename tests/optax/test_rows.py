"""What the compiler is given: few inner products of many small gradients, and no loop in a rule of few losses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradweight.optax import combine
from gradweight.optax.rows import gram_matrix
from gradweight.rules import MGDA, CAGrad, DualProj, UPGrad

NAMES = ("a", "b", "c")


def rows_of(*shapes, dtype=np.float32):
    draw = np.random.default_rng(0).standard_normal
    return [{str(i): jnp.asarray(draw(shape), dtype) for i, shape in enumerate(shapes)} for _ in NAMES]


def flat(row):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(row)])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.complex64])
def test_small_parameters_are_one_inner_product_for_each_pair(dtype):
    rows = rows_of((3,), (2, 5), (), (0,), (70, 70), (4, 1), dtype=dtype)
    jaxpr = str(jax.make_jaxpr(gram_matrix)(rows))
    # the large one and the rest; complex ones by their parts
    assert jaxpr.count("dot_general[") == 6 * 2 * (2 if dtype == np.complex64 else 1)
    if dtype != np.complex64:
        matrix = np.stack([flat(row) for row in rows])
        np.testing.assert_allclose(gram_matrix(rows), matrix @ matrix.T, rtol=2e-5, atol=2e-3)


def test_dtypes_are_not_mixed():
    rows = [one | {"half": two["0"]} for one, two in zip(rows_of((3,)), rows_of((4,), dtype=jnp.bfloat16), strict=True)]
    matrix = np.stack([flat(row) for row in rows])
    # as float32 all products of bfloat16 are exact
    np.testing.assert_allclose(gram_matrix(rows), matrix @ matrix.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", [UPGrad(), DualProj(), MGDA(), CAGrad()], ids=lambda rule: type(rule).__name__)
def test_no_loop_and_no_library_in_a_rule_of_few_losses(rule):
    """On a GPU each turn of a loop waits for the host, and a library is launches of its own."""
    opt, rows = combine(rule, NAMES), rows_of((3,), (2, 5))
    program = jax.jit(lambda rows: opt.update(rows, opt.init(rows[0]), rows[0])).lower(rows).as_text()
    assert "stablehlo.dot_general" in program
    assert "stablehlo.while" not in program
    assert "stablehlo.custom_call" not in program
    four = (*NAMES, "d", "e")
    larger = jax.jit(rule).lower(jnp.eye(len(four))).as_text()
    assert "stablehlo.custom_call" in larger  # where the test above would see it
