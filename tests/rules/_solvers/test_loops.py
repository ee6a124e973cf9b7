"""Loop bodies that compile once: the same results, in regions that are shared, and plain calls everywhere else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradweight.rules import UPGrad
from gradweight.rules._solvers.loops import compiled_once, repeated


@compiled_once
def halfway(x, y):
    return (x + y) / 2


def towards(x, y, steps=3):
    for _ in range(steps):
        x = halfway(x, y)
    return x


def compiled(function, backend="aot_eager"):
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend=backend)


def regions(function, *args) -> tuple[int, int]:
    """How often a compiled function calls a region, and how many different ones there are."""
    calls, bodies = [], set()

    def count(module, inputs):
        for node in module.graph.nodes:
            if node.op == "call_function" and "invoke_subgraph" in str(node.target):
                calls.append(node)
                bodies.add(node.args[1])
        return module.forward

    torch.compiler.reset()
    torch.compile(function, fullgraph=True, backend=count)(*args)
    return len(calls), len(bodies)


def test_a_plain_call_in_numpy_and_in_eager_mode() -> None:
    assert towards(np.zeros(2), np.ones(2)).tolist() == [0.875, 0.875]
    assert towards(torch.zeros(2), torch.ones(2)).tolist() == [0.875, 0.875]
    assert halfway.__name__ == "halfway"


def test_one_region_however_many_turns() -> None:
    assert regions(towards, torch.zeros(2), torch.ones(2)) == (3, 1)


def test_an_array_that_is_passed_twice() -> None:
    """It is one input of the region, which a call with two arrays must not reuse as it is."""

    def function(x, y):
        return towards(halfway(x, x), y)

    x, y = torch.zeros(2), torch.ones(2)
    torch.testing.assert_close(compiled(function)(x, y), function(x, y))


def test_a_compiled_rule_for_many_losses() -> None:
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((9, 12)))
    gram = rows @ rows.mT
    # what the tracer makes of it, without the time of a compiler
    found = compiled(lambda gram: UPGrad()(gram), backend="eager")(gram)
    torch.testing.assert_close(found, UPGrad()(gram), rtol=1e-12, atol=1e-12)


def test_inside_of_transforms() -> None:
    """Regions have no rule for them, so there are none, and compiling goes on to work."""
    x, y = torch.zeros(4, 2), torch.ones(2)

    def batched(x):
        return torch.vmap(lambda x: towards(x, y))(x)

    assert regions(batched, x) == (0, 0)
    torch.testing.assert_close(compiled(batched)(x), batched(x))
    jacobian = torch.func.jacrev(lambda x: towards(x, y))
    torch.testing.assert_close(compiled(jacobian)(x[0]), torch.eye(2) / 8)


def test_repeated_is_a_loop() -> None:
    for like in (np.zeros(2), torch.zeros(2)):
        x, count = repeated(lambda state: (halfway(state[0], 1), state[1] + 1), 3, (like, 0 * like))
        assert (x.tolist(), count.tolist()) == ([0.875, 0.875], [3, 3])


def test_jax_compiles_one_turn_however_many() -> None:
    jax = pytest.importorskip("jax")
    x = jax.numpy.zeros(2)

    def approached(times):
        return lambda x: repeated(lambda x: halfway(x, 1), times, x)

    def lines(times):
        return str(jax.make_jaxpr(approached(times))(x)).count("\n")

    assert lines(3) == lines(300)
    assert approached(3)(x).tolist() == jax.jit(approached(3))(x).tolist() == [0.875, 0.875]
    batched = jax.vmap(approached(3))(jax.numpy.stack([x, x + 1]))
    assert batched.tolist() == [[0.875, 0.875], [1, 1]]
    assert jax.jacrev(approached(3))(x).tolist() == [[0.125, 0], [0, 0.125]]


def test_jax_without_a_transform_compiles_no_loop() -> None:
    """It would, at every call: the body is traced then, and shown no values."""
    jax = pytest.importorskip("jax")
    seen = []
    repeated(lambda x: seen.append(x.tolist()) or x + 1, 3, jax.numpy.zeros(1))
    assert seen == [[0], [1], [2]]
