"""Loop bodies that compile once: the same results, in regions that are shared, and plain calls everywhere else."""

from __future__ import annotations

import numpy as np
import torch

from gradweight.rules import UPGrad
from gradweight.rules._loops import compiled_once


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
