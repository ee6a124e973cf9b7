"""An actor and a critic, PPO's three losses, and a host that adds them up where nobody gets in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import UPGrad

SAMPLES = 12
VALUE, ENTROPY, CLIP = 0.5, 0.01, 0.1
NAMES = ("policy", "value", "entropy")


class Policy(nn.Module):
    """An actor and a critic on one trunk."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(4, 8, dtype=dtype)
        self.actor, self.critic = nn.Linear(8, 3, dtype=dtype), nn.Linear(8, 1, dtype=dtype)

    def evaluate(self, x: Tensor, actions: Tensor) -> dict[str, Tensor]:
        h = torch.tanh(self.trunk(x))
        spread = torch.distributions.Categorical(logits=self.actor(h))
        return {"policy": spread.log_prob(actions), "value": self.critic(h)[:, 0], "entropy": spread.entropy()}


class Batch(NamedTuple):
    x: Tensor
    actions: Tensor
    old: Tensor
    advantages: Tensor
    returns: Tensor


def batches(n: int, dtype: torch.dtype = torch.float64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(n):
        x, old, a, r = (torch.randn(SAMPLES, k, generator=generator).to(dtype) for k in (4, 1, 1, 1))
        actions = torch.randint(3, (SAMPLES,), generator=generator)
        made.append(Batch(x, actions, -1 + 0.1 * old[:, 0], a[:, 0], r[:, 0]))
    return made


def terms(out: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The three losses of PPO, the ratio clipped."""
    ratio = torch.exp(out["policy"] - batch.old)
    clipped = batch.advantages * torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
    return {
        "policy": -torch.min(batch.advantages * ratio, clipped).mean(),
        "value": VALUE * (batch.returns - out["value"]).square().mean(),
        "entropy": -ENTROPY * out["entropy"].mean(),
    }


def host(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    evaluate: Callable[..., dict[str, Tensor]],
    scale: float = 1.0,
) -> Tensor:
    """What a host does deep inside a method: evaluate, add up, backward."""
    losses = terms(evaluate(batch.x, batch.actions), batch)
    loss = losses["policy"] + losses["value"] + losses["entropy"]
    (loss * scale).backward()
    return loss


def wrapped(net: nn.Module, rule: Any = None, **options: Any) -> MultiObjectiveGradient:
    base = torch.optim.Adam(net.named_parameters(), lr=0.01)
    return MultiObjectiveGradient(base, UPGrad() if rule is None else rule, **options)


def split(policy: Policy, opt: MultiObjectiveGradient, how: str = "once", **options: Any) -> Callable[..., Any]:
    def evaluate(x: Tensor, actions: Tensor) -> dict[str, Tensor]:
        out = policy.evaluate(x, actions)
        if how == "once":
            return opt.split_at(out, **options)
        return {name: opt.split_at({name: tensor}, **options)[name] for name, tensor in out.items()}

    return evaluate


def same(net: nn.Module, reference: nn.Module, what: str = "data") -> None:
    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(getattr(p, what), getattr(q, what))
