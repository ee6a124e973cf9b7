"""What ``import gradweight`` needs and what it leaves alone, each in an interpreter of its own."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import gradweight

SLOW = ("torch._dynamo", "torch._inductor", "array_api_compat.numpy", "jax", "triton", "matplotlib", "scipy", "torchjd")
BESIDE_TORCH = f"""
import sys
import numpy, torch
before = set(sys.modules)
from gradweight import Combination, MultiObjectiveGradient, func, rules
print(*sorted(set({SLOW}) & (set(sys.modules) - before)))
"""

# stands in front of all finders, so that a package is as good as not installed
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""

WITHOUT_TORCH = """
import numpy as np
import gradweight
from gradweight import Rule, rules
from gradweight.rules.claims import CLAIMS
gram = np.array([[4.0, -1.0], [-1.0, 25.0]])
print(*rules.AngleBisector()(gram), *rules.UPGrad()(gram), gradweight.rules is rules)
print(*gradweight.rules.FAMO().init(gram))
for name in ("MultiObjectiveGradient", "gan", "func"):
    try:
        getattr(gradweight, name)
    except ModuleNotFoundError as error:
        print(error.name, error)
"""

OPTAX_WITHOUT_TORCH = """
import jax, jax.numpy as jnp
import optax
from gradweight.optax import *
from gradweight.rules import AdaptiveWeights, UPGrad
def losses(w):
    losses = {"real": gan.alpha_loss(w, 1.0).mean(), "fake": gan.alpha_loss(-w, 1.0).mean()}
    return losses, gan.probability_scores(w, w)
def step(rule):
    w, opt = jnp.ones(3), optax.chain(combine(rule, ("real", "fake")), optax.adam(0.1))
    (values, scores), gradients = loss_gradients(losses, has_aux=True)(w)
    updates, state = opt.update(gradients, opt.init(w), w, losses=values, **scores)
    return optax.apply_updates(w, updates)
print(jax.jit(lambda: step(AdaptiveWeights()))().shape, jax.eval_shape(lambda: step(UPGrad())).shape)
print("torch" in sys.modules)
"""

WITHOUT_EITHER = """
import gradweight
from gradweight.rules import AngleBisector
import numpy as np
print(AngleBisector()(np.eye(2)).shape)
for name in ("MultiObjectiveGradient", "optax"):
    try:
        getattr(gradweight, name)
    except ModuleNotFoundError as error:
        print(error)
"""

WITHOUT_JAX = """
import gradweight
gradweight.MultiObjectiveGradient
try:
    gradweight.optax
except ModuleNotFoundError as error:
    print(error)
try:
    import gradweight.optax
except ModuleNotFoundError as error:
    print(error)
"""


def printed(code: str, *blocked: str) -> list[str]:
    source = f"BLOCKED = {set(blocked) or set()!r}{BLOCK}{code}"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_nothing_slow_is_imported() -> None:
    assert printed(BESIDE_TORCH) == [""]


def test_the_bare_name_imports_no_library_of_arrays() -> None:
    libraries = ("torch", "jax", "numpy", "optax", "array_api_compat", "matplotlib")
    assert printed(f"import gradweight; print(*(set({libraries}) & set(sys.modules)))") == [""]


def test_the_rules_work_without_torch() -> None:
    weights, state, *errors = printed(WITHOUT_TORCH, "torch")
    *numbers, same = weights.split()
    assert len(numbers) == 4
    assert same == "True"
    assert state
    needed = "needs torch, which is not installed: pip install 'gradweight[torch]'"
    assert errors == [f"torch gradweight.{name} {needed}" for name in ("MultiObjectiveGradient", "gan", "func")]


def test_optax_works_without_torch() -> None:
    pytest.importorskip("optax")
    assert printed(OPTAX_WITHOUT_TORCH, "torch", "typing_extensions") == ["(3,) (3,)", "False"]


def test_the_bare_package_says_what_to_install() -> None:
    """Rules on NumPy arrays are all that there is, and the two errors name the extra of what was asked for."""
    shape, torch, optax = printed(WITHOUT_EITHER, "torch", "typing_extensions", "jax", "optax")
    assert shape == "(2,)"
    assert torch.endswith("needs torch, which is not installed: pip install 'gradweight[torch]'")
    assert optax.endswith("needs jax, which is not installed: pip install 'gradweight[optax]'")


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_torch_works_without_jax(missing: str) -> None:
    for message in printed(WITHOUT_JAX, missing):
        assert message.startswith("gradweight.optax needs")
        assert message.endswith("pip install 'gradweight[optax]'")


def test_names_are_public_and_found() -> None:
    assert dir(gradweight) == sorted([*gradweight.__all__, "optax", "plot", "testing", "__version__"])
    for name in (*gradweight.__all__, "plot"):
        assert getattr(gradweight, name) is not None
    assert not hasattr(gradweight, "array_namespace")
    assert gradweight.gan.Hinge.__module__ == "gradweight.gan.losses"


def _public():
    modules = (importlib.import_module(f"gradweight.{name}") for name in ("func", "gan", "pinn", "rules", "testing"))
    for module in (gradweight, *modules):
        for name in module.__all__:
            thing = getattr(module, name)
            yield name, thing
            if inspect.isclass(thing):
                yield from ((f"{name}.{key}", value) for key, value in vars(thing).items() if not key.startswith("_"))


def test_help_shows_types_and_not_their_names_in_quotes():
    quoted = set()
    for name, thing in _public():
        if inspect.isfunction(thing) or inspect.isclass(thing):
            try:
                signature = inspect.signature(thing)
            except ValueError:  # no signature: a tuple of types, for example
                continue
            quoted |= {f"{name}: {p.name}" for p in signature.parameters.values() if isinstance(p.annotation, str)}
            quoted |= {f"{name}: return"} if isinstance(signature.return_annotation, str) else set()
    # a class within itself, and a type that a build of torch without distributed lacks
    assert quoted <= {"Combination: blocks", "LossBalancer: process_group", "MultiObjectiveGradient: process_group"}
