"""Every public argument: what it needed and what it got, in one table. A message names the argument and the value."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gradweight import MultiObjectiveGradient, rules
from gradweight.gan import advas_penalty, advas_penalty_half_batches, advas_penalty_unbiased
from gradweight.rules.claims import CLAIMS


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def wrap(module: nn.Module | None = None, rule: object = rules.Sum(), **options: object) -> MultiObjectiveGradient:
    base = torch.optim.SGD((module or net()).named_parameters(), lr=0.1)
    return MultiObjectiveGradient(base, rule, **options)


def given(**losses: object) -> MultiObjectiveGradient:
    module = net()
    opt = wrap(module)
    opt.backward({"main": module(torch.ones(4, 2)).sum()} | losses)
    return opt


def shared(make: Callable[[nn.Module, torch.Tensor], object]) -> None:
    module = net()
    features = module[0](torch.ones(4, 2))
    wrap(module).backward({"a": module[1](features).sum()}, shared=make(module, features))


def in_training_mode() -> None:
    module = net()
    x = torch.ones(4, 2)
    wrap(module).backward(lambda p: {"a": torch.func.functional_call(module, p, (x,)).sum()})


def penalty(function: Callable[..., object], phi: object) -> object:
    samples = torch.ones(4, 2)
    if function is advas_penalty:
        return advas_penalty(lambda p: p["weight"].sum(), phi)
    return function(lambda p, f, r: (p["weight"] * f).sum(), phi, samples, samples)


D = nn.Linear(2, 1)
PARAMS = r"params must be pairs \(name, parameter\), such as net\.named_parameters\(\), or a mapping of them; got "
SHARED = "shared must be a tensor, or several, .* got "
PHI = r"phi must be a mapping .* such as dict\(D\.named_parameters\(\)\); got "
LEAVE_OUT = "leave it out of the mapping if this step has no such loss"

TABLE: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "history=-1": (lambda: wrap(history=-1), ValueError, "history must be at least 0; got -1"),
    "history=2.5": (lambda: wrap(history=2.5), TypeError, "history must be an int of at least 0; got 2.5"),
    "refresh_every=0": (lambda: wrap(refresh_every=0), ValueError, "refresh_every must be at least 1; got 0"),
    "refresh_every=1.5": (lambda: wrap(refresh_every=1.5), TypeError, "refresh_every must be an int .*; got 1.5"),
    "refresh_every=True": (lambda: wrap(refresh_every=True), TypeError, "refresh_every must be an int .*; got True"),
    "accumulate='no'": (lambda: wrap(accumulate="no"), TypeError, "accumulate must be True or False; got 'no'"),
    "cuda_graphs=1": (lambda: wrap(cuda_graphs=1), TypeError, "cuda_graphs must be True or False; got 1"),
    "engine": (lambda: wrap(engine="vmap"), ValueError, "engine must be one of .*; got 'vmap'"),
    "reduce": (lambda: wrap(reduce="mean"), ValueError, "reduce must be 'all' or 'scatter'; got 'mean'"),
    "trunk='trunk'": (lambda: wrap(trunk="trunk"), TypeError, "trunk must be the module .*; got str"),
    "blocks": (lambda: wrap(blocks="tensor"), ValueError, "blocks must be 'group', 'layer', .*; got 'tensor'"),
    "process_group": (lambda: wrap(process_group="world"), TypeError, "process_group must be .*; got 'world'"),
    "params=net": (lambda: wrap(params=net()), TypeError, PARAMS + "Sequential"),
    "params=net.parameters()": (lambda: wrap(params=net().parameters()), TypeError, PARAMS + "generator of Parameter"),
    "params=net.state_dict().keys()": (lambda: wrap(params=["a"]), TypeError, PARAMS + "list of str"),
    "params=3": (lambda: wrap(params=3), TypeError, PARAMS + "int"),
    "LBFGS": (
        lambda: MultiObjectiveGradient(torch.optim.LBFGS(net().parameters()), rules.Sum()),
        TypeError,
        "no closure; got LBFGS.*: use Adam or SGD here",
    ),
    "scaler": (
        lambda: wrap().backward({"a": torch.ones(())}, scaler=2.0),
        TypeError,
        r"scaler must be a torch\.amp\.GradScaler; got float",
    ),
    "shared=module": (lambda: shared(lambda module, _: module[0]), TypeError, SHARED + "Linear"),
    "shared=[module]": (lambda: shared(lambda module, _: [module[0]]), TypeError, SHARED + "list of Linear"),
    "shared=input": (lambda: shared(lambda *_: torch.ones(4, 3)), ValueError, "shared= needs tensors computed from"),
    "a loss of 0.0": (lambda: given(aux=0.0), TypeError, f"'aux' must be a scalar tensor; got float: {LEAVE_OUT}"),
    "a constant loss": (lambda: given(aux=torch.tensor(0.0)), ValueError, f"'aux' has no graph .*: {LEAVE_OUT}"),
    "batch norm": (in_training_mode, RuntimeError, "batch normalization .* pass engine='autograd'"),
    "advas_penalty(D)": (lambda: penalty(advas_penalty, D), TypeError, PHI + "Linear"),
    "advas_penalty(D.parameters())": (lambda: penalty(advas_penalty, D.parameters()), TypeError, PHI + "generator"),
    "half batches": (lambda: penalty(advas_penalty_half_batches, D), TypeError, PHI + "Linear"),
    "unbiased": (lambda: penalty(advas_penalty_unbiased, list(D.parameters())), TypeError, PHI + "list of Parameter"),
    "Constant([1, 2])": (
        lambda: rules.Constant([1, 2]),
        TypeError,
        r"Constant needs weights as a map.*got \[1, 2\]",
    ),
    "Constant(None)": (lambda: rules.Constant(None), TypeError, "Constant needs weights as a mapping.*got None"),
    "Constant('1')": (lambda: rules.Constant({"a": "1"}), TypeError, "weights for 'a' to be a number; got '1'"),
    "alpha1 > alpha2": (
        lambda: rules.AdaptiveWeights(alpha1=0.8, alpha2=0.2),
        ValueError,
        "AdaptiveWeights needs alpha1 <= alpha2.*got 0.8 and 0.2",
    ),
    "NormBalance(norm=0)": (lambda: rules.NormBalance(norm=0), ValueError, "NormBalance needs norm > 0"),
    "NormBalance(beta=1)": (
        lambda: rules.NormBalance(beta=1),
        ValueError,
        r"NormBalance needs beta in \[0, 1\); got",
    ),
    "PINNAnnealing(alpha=0)": (lambda: rules.PINNAnnealing(alpha=0), ValueError, r"needs alpha in \(0, 1\]; got 0"),
    "PINNNormAnnealing(alpha=0)": (
        lambda: rules.PINNNormAnnealing(alpha=0),
        ValueError,
        r"PINNNormAnnealing needs alpha in \(0, 1\]; got 0",
    ),
    "CRMOGM(alpha=1)": (lambda: rules.CRMOGM(rules.Sum(), 1.0), ValueError, r"CRMOGM needs alpha in \[0, 1\); got 1"),
    "VQGANWeight(most=0)": (lambda: rules.VQGANWeight(most=0), ValueError, "VQGANWeight needs most > 0"),
}


@pytest.mark.parametrize(("call", "error", "match"), TABLE.values(), ids=TABLE)
def test_arguments(call: Callable[[], object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_every_argument_of_the_constructor_is_in_the_table() -> None:
    options = inspect.signature(MultiObjectiveGradient).parameters.keys() - {"base", "rule"}
    assert {name for name in options if any(entry.startswith(name) for entry in TABLE)} == options


def _numbers() -> list[tuple[object, dataclasses.Field[object]]]:
    found = {}
    for claims in CLAIMS:
        for field in dataclasses.fields(claims.rule) if dataclasses.is_dataclass(claims.rule) else ():
            value = getattr(claims.rule, field.name)
            table = field.name in ("preference", "shares", "leak", "ideal", "weights")
            if (isinstance(value, int | float) and not isinstance(value, bool)) or table:
                found[type(claims.rule), field.name] = (claims.rule, field)
    return list(found.values())


@pytest.mark.parametrize(
    ("rule", "field"), _numbers(), ids=[f"{type(rule).__name__}.{field.name}" for rule, field in _numbers()]
)
def test_numbers_and_tables_of_rules(rule: object, field: dataclasses.Field[object]) -> None:
    """Of every rule: text where a number belongs, a list where names do, NaN and minus infinity anywhere."""
    name, kind = type(rule).__name__, type(getattr(rule, field.name))
    for wrong in ("x", [1, 2], float("nan"), float("-inf")):
        with pytest.raises((TypeError, ValueError), match=f"^{name} needs") as caught:
            dataclasses.replace(rule, **{field.name: wrong})
        assert repr(wrong) in str(caught.value), kind
