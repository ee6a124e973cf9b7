"""TRL with PEFT: supervised fine-tuning of LoRA parameters by two named losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradweight import MultiObjectiveGradient
from gradweight.rules import UPGrad

# of these packages about themselves
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

STEPS, MICRO, RATE, WORDS = 4, 2, 0.01, 16


def losses(model: nn.Module, inputs: dict[str, Tensor], items: Tensor) -> dict[str, Tensor]:
    """The likelihood of the tokens and the size of the logits' normaliser, over all tokens of the step."""
    outputs = model(**inputs, num_items_in_batch=items)
    return {"nll": outputs.loss, "normaliser": outputs.logits.logsumexp(-1).square().sum() / items}


def test_trl_with_peft(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    peft, datasets = pytest.importorskip("peft"), pytest.importorskip("datasets")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    seen: list[tuple[dict[str, Tensor], Tensor]] = []

    class Trainer(trl.SFTTrainer):  # type: ignore[misc, name-defined]
        opt: MultiObjectiveGradient | None = None

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            if self.opt is None:  # accelerate wraps self.optimizer later: join is on the one made here
                self.opt = self.optimizer = MultiObjectiveGradient(super().create_optimizer(*args, **kwargs), UPGrad())
            return self.optimizer

        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Tensor:
            seen.append((inputs, num_items_in_batch))
            assert self.opt is not None
            return self.opt.join(losses(model, inputs, num_items_in_batch))

    words = {word: i for i, word in enumerate(["<pad>", "<eos>", *map(str, range(WORDS - 2))])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<eos>")), pad_token="<pad>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    tokens = torch.randint(2, WORDS, (2 * STEPS * MICRO, 8)).tolist()
    arguments = trl.SFTConfig(
        str(tmp_path),
        max_steps=STEPS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=MICRO,
        learning_rate=RATE,
        max_grad_norm=0.5,
        optim="adamw_torch",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    host = Trainer(
        LlamaForCausalLM(config),
        arguments,
        train_dataset=datasets.Dataset.from_dict({"input_ids": tokens}),
        processing_class=tokenizer,
        peft_config=lora,
    )
    # not a copy, whose forward would be the one that TRL has bound to the first
    reference = peft.get_peft_model(LlamaForCausalLM(config), lora)
    reference.load_state_dict(host.model.state_dict())
    host.train()
    assert host.opt is not None
    assert host.opt.last is not None
    assert host.opt.last.names == ("nll", "normaliser")

    params = {name: p for name, p in reference.named_parameters() if p.requires_grad}
    assert all("lora" in name for name in params)
    before = {name: p.detach().clone() for name, p in params.items()}
    direct = MultiObjectiveGradient(torch.optim.AdamW(params.values(), lr=RATE, weight_decay=0.0), UPGrad())
    schedule = torch.optim.lr_scheduler.LinearLR(direct, 1.0, 0.0, STEPS)
    for i, (inputs, items) in enumerate(seen):
        direct.backward(losses(reference, inputs, items))
        if i % MICRO == MICRO - 1:
            nn.utils.clip_grad_norm_(params.values(), 0.5)
            direct.step()
            schedule.step()
            direct.zero_grad()
    trained = dict(host.model.named_parameters())
    for name, p in params.items():
        assert not torch.equal(p, before[name])
        # Adam divides what is rounded in the sixth digit by its own size
        torch.testing.assert_close(trained[name], p, rtol=1e-4, atol=1e-5)
