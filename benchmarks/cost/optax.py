"""What does a jitted step with `gradweight.optax` cost, as a ratio to the step on the summed loss?

    python -m benchmarks.cost.optax [--cells mlp,dcgan,pinn,heads] [--variants each] [--rounds N] [--device gpu]

Each cell trains one network of plain JAX with Adam: two losses on batches of their own (a perceptron and a DCGAN
discriminator), a physics-informed network of three losses, and four heads on one trunk. The variants, every rule in
every mode of `loss_gradients`, take turns in one process, and each is divided by the plain step of the same round.
Reported are the median of the ratios with its quartiles, and of the compiled program the time that it took to compile,
its temporary memory and operations, as ratios too, how many instructions it is (of a GPU about as many launches) and
how many of these are loops. Results are written after every cell to
``build/optax/``, or with ``--cite`` to ``benchmarks/results/optax/``; a cell that is measured again replaces its entry.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.cost.timing import interleaved, quartiles_of_ratios
from benchmarks.folders import add_output_arguments, output_folder
from benchmarks.record import keep_by_cell, machine_record
from gradweight.optax import combine, loss_gradients
from gradweight.rules import AngleBisector, UPGrad

PLAIN = "sum of the losses"
RULES = {"AngleBisector": AngleBisector(), "UPGrad": UPGrad()}
Losses = Callable[[Any, Any], dict[str, jax.Array]]


def layers(key: jax.Array, sizes: list[int]) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        (jax.random.normal(k, (a, b)) / math.sqrt(a), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def perceptron(p: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    for w, b in p[:-1]:
        x = jnp.tanh(x @ w + b)
    w, b = p[-1]
    return x @ w + b


def adversarial(network: Callable[[Any, jax.Array], jax.Array]) -> Losses:
    def losses(p: Any, batch: tuple[jax.Array, jax.Array]) -> dict[str, jax.Array]:
        real, fake = network(p, batch[0]), network(p, batch[1])
        return {"real": jax.nn.softplus(-real).mean(), "fake": jax.nn.softplus(fake).mean()}

    return losses


def mlp(large: bool) -> tuple[Losses, Any, Any]:
    key = jax.random.key(0)
    batch = jax.random.normal(jax.random.key(1), (2, 512, 2))
    return adversarial(perceptron), layers(key, [2, 256, 256, 256, 1]), (batch[0], batch[1])


def dcgan(large: bool) -> tuple[Losses, Any, Any]:
    width, keys = 64 if large else 32, jax.random.split(jax.random.key(0), 4)
    sizes = [3, width, 2 * width, 4 * width]
    kernels = [
        jax.random.normal(k, (b, a, 4, 4)) / math.sqrt(16 * a)
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]

    def network(p: Any, x: jax.Array) -> jax.Array:
        for kernel in p["kernels"]:
            x = jax.nn.leaky_relu(jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME"), 0.2)
        return x.reshape(len(x), -1) @ p["score"]

    score = jax.random.normal(keys[3], (64 * width, 1)) / math.sqrt(64 * width)
    batch = jax.random.normal(jax.random.key(1), (2, 64, 3, 32, 32))
    return adversarial(network), {"kernels": kernels, "score": score}, (batch[0], batch[1])


def pinn(large: bool) -> tuple[Losses, Any, Any]:
    def losses(p: Any, x: jax.Array) -> dict[str, jax.Array]:
        def u(t: jax.Array) -> jax.Array:
            return perceptron(p, t[None])[0]

        residual = jax.vmap(jax.grad(jax.grad(u)))(x) + jnp.sin(x)
        return {"equation": (residual**2).mean(), "left": u(jnp.zeros(())) ** 2, "right": u(jnp.ones(())) ** 2}

    return losses, layers(jax.random.key(0), [1, 64, 64, 64, 64, 1]), jax.random.normal(jax.random.key(1), (2048,))


def heads(large: bool) -> tuple[Losses, Any, Any]:
    width = 1024 if large else 256
    trunk, ends = layers(jax.random.key(0), [64, *[width] * 4]), layers(jax.random.key(2), [width, 128])

    def losses(p: Any, x: jax.Array) -> dict[str, jax.Array]:
        found = perceptron([*p["trunk"], *p["ends"]], x).reshape(len(x), 4, 32)
        return {f"head{i}": (found[:, i] ** 2).mean() for i in range(4)}

    return losses, {"trunk": trunk, "ends": ends}, jax.random.normal(jax.random.key(1), (512, 64))


CELLS = {"mlp": mlp, "dcgan": dcgan, "pinn": pinn, "heads": heads}


def variants(losses: Losses, names: tuple[str, ...]) -> Iterator[tuple[str, Any, Callable[..., Any]]]:
    """Name, optimizer and step of each."""
    adam = optax.adam(1e-4)

    def plain(p: Any, state: Any, batch: Any) -> tuple[Any, Any, Any]:
        def total(p: Any) -> tuple[jax.Array, Any]:
            values = losses(p, batch)
            return sum(values.values()), values  # type: ignore[return-value]

        gradient, values = jax.grad(total, has_aux=True)(p)
        updates, state = adam.update(gradient, state, p)
        return optax.apply_updates(p, updates), state, values

    yield PLAIN, adam, plain
    for rule_name, rule in RULES.items():
        for mode in ("each", "vmap", "vjp"):
            opt = optax.chain(combine(rule, names), adam)

            def step(p: Any, state: Any, batch: Any, opt: Any = opt, mode: Any = mode) -> tuple[Any, Any, Any]:
                values, rows = loss_gradients(losses, mode=mode)(p, batch)
                updates, state = opt.update(rows, state, p, losses=values)
                return optax.apply_updates(p, updates), state, values

            yield f"{rule_name}, {mode}", opt, step


NO_WORK = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def instructions(program: str) -> dict[str, int]:
    """How many instructions the entry of a compiled program has that do something, and loops the whole of it."""
    entry = re.findall(r" = .*? ([a-z-]+)\(", program[program.index("\nENTRY") :])
    return {"instructions": sum(name not in NO_WORK for name in entry), "loops": program.count(" while(")}


def measure(cell: str, large: bool, rounds: int, seconds: float, only: str) -> dict[str, Any]:
    """The ratios of a cell, of the variants whose names contain ``only``."""
    losses, params, batch = CELLS[cell](large)
    names = tuple(losses(params, batch))
    ways, compiled, states = {}, {}, []
    for name, opt, step in variants(losses, names):
        if only not in name and name != PLAIN:
            continue
        state = opt.init(params)
        start = time.perf_counter()
        function = jax.jit(step).lower(params, state, batch).compile()
        took = time.perf_counter() - start
        cost, memory = function.cost_analysis(), function.memory_analysis()
        compiled[name] = {"seconds": took, "flops": cost["flops"], "temporary": memory.temp_size_in_bytes}
        compiled[name] |= instructions(function.as_text())
        at = [params, state]
        states.append(at)

        def call(function: Any = function, at: list[Any] = at) -> None:
            at[0], at[1], _ = function(at[0], at[1], batch)

        ways[name] = call
    # the steps of a training are dispatched one behind the other
    times = interleaved(ways, rounds=rounds, seconds=seconds, title=cell, wait=lambda: jax.block_until_ready(states))
    size = sum(p.size for p in jax.tree.leaves(params))
    plain = compiled[PLAIN]
    return {
        "cell": cell,
        "device": str(jax.devices()[0].device_kind),
        "machine": machine_record() | {"jax": jax.__version__, "optax": optax.__version__},
        "parameters": size,
        "losses": len(names),
        "plain_ms": round(statistics.median(times[PLAIN]) * 1e3, 3),
        "ratio_quartiles": quartiles_of_ratios(times, PLAIN),
        "compiled": {
            name: {
                "seconds": round(found["seconds"], 2),
                "temporary_ratio": round(found["temporary"] / max(1, plain["temporary"]), 2),
                "operations_ratio": round(found["flops"] / plain["flops"], 3),
                "more_operations_per_parameter": round((found["flops"] - plain["flops"]) / size, 1),
                "instructions": found["instructions"],
                "loops": found["loops"],
            }
            for name, found in compiled.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default=",".join(CELLS), help="comma-separated: " + ", ".join(CELLS))
    parser.add_argument("--variants", default="", help="only those whose names contain this, beside the plain step")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=20, help="no round of a cell starts after these")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    add_output_arguments(parser)
    arguments = parser.parse_args()
    out = output_folder(arguments, "optax" if arguments.device == "cpu" else "optax/gpu")
    jax.config.update("jax_platforms", "cpu" if arguments.device == "cpu" else "cuda,cpu")
    for cell in arguments.cells.split(","):
        rounds = max(4, arguments.rounds // (5 if arguments.quick else 1))
        result = measure(cell, arguments.device == "gpu", rounds, arguments.seconds, arguments.variants)
        keep_by_cell(out / "optax.json", result, CELLS)
        print(f"\n{cell} on {result['device']}: {result['parameters']:,} parameters, {result['plain_ms']} ms")
        for name, (low, median, high) in result["ratio_quartiles"].items():
            print(f"  {name:<24} {median:6.3f}   [{low:.3f}, {high:.3f}]   {result['compiled'][name]}", flush=True)


if __name__ == "__main__":
    main()
