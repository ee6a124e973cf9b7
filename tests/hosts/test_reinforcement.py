"""Reinforcement learning: losses that a host adds up in the middle of a method."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import UPGrad

# of these packages about themselves
pytestmark = pytest.mark.filterwarnings("ignore")

Adam = MultiObjectiveGradient.of(torch.optim.Adam, UPGrad())


@pytest.mark.parametrize("target_kl", [None, 1e-4], ids=["to the end", "stopped early"])
def test_stable_baselines3(target_kl: float | None, tmp_path: Any) -> None:
    """PPO through the outputs of the policy, against a `train` that gives its three losses to `backward`."""
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.policies import ActorCriticPolicy

    class Policy(ActorCriticPolicy):
        def evaluate_actions(self, obs: Tensor, actions: Tensor) -> Any:
            values, log_prob, entropy = super().evaluate_actions(obs, actions)
            named = {"value": values, "policy": log_prob, "entropy": entropy}
            return tuple(self.optimizer.split_at(named).values())

    class Direct(sb3.PPO):  # type: ignore[misc, name-defined]
        def train(self) -> None:
            opt, clip = self.policy.optimizer, self.clip_range(1.0)
            for _ in range(self.n_epochs):
                for batch in self.rollout_buffer.get(self.batch_size):
                    values, log_prob, entropy = self.policy.evaluate_actions(
                        batch.observations, batch.actions.long().flatten()
                    )
                    advantages = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
                    log_ratio = log_prob - batch.old_log_prob
                    ratio = log_ratio.exp()
                    gain = torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))
                    if target_kl is not None and (log_ratio.exp() - 1 - log_ratio).mean() > 1.5 * target_kl:
                        return
                    opt.zero_grad()
                    opt.backward(
                        {
                            "value": self.vf_coef * nn.functional.mse_loss(batch.returns, values.flatten()),
                            "policy": -gain.mean(),
                            "entropy": -self.ent_coef * entropy.mean(),
                        }
                    )
                    nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                    opt.step()

    def trained(algorithm: Any, policy: Any) -> Any:
        model = algorithm(
            policy,
            "CartPole-v1",
            n_steps=64,
            batch_size=16,
            n_epochs=2,
            ent_coef=0.01,
            target_kl=target_kl,
            seed=0,
            device="cpu",
            policy_kwargs={"optimizer_class": Adam, "net_arch": [8]},
        )
        return model.learn(192)

    ours, direct = trained(sb3.PPO, Policy), trained(Direct, "MlpPolicy")
    seen = ours.policy.optimizer.last
    assert seen.names == ("value", "policy", "entropy")
    for p, q in zip(ours.policy.parameters(), direct.policy.parameters(), strict=True):
        assert torch.equal(p, q)
    ours.save(tmp_path / "ours")
    back = sb3.PPO.load(tmp_path / "ours", env=ours.get_env(), device="cpu")
    assert isinstance(back.policy.optimizer, MultiObjectiveGradient)
    for state in (ours.policy, back.policy):
        assert len(state.optimizer.state) == len(list(state.parameters()))
    back.learn(64)
    assert issubclass(pickle.loads(pickle.dumps(Adam)), MultiObjectiveGradient)
