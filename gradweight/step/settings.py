"""Settings: how steps are to be taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from ..combination import Combination
from ..contract.arguments import check_count, check_flag
from ..contract.names import ParameterNames
from ..contract.rule_check import check_rule_once
from ..distributed import Group, Reduce
from ..gradients.auto import AutoEngine
from ..gradients.engines import ENGINES, Engine
from ..rule import CoordinateRule, State, StatefulRule, averaging
from .averages import Averager
from .blocks import Blocks, Trunk, check_blocks
from .combiner import Combiner
from .combiner_input import CombinerInput
from .replay import Replay

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How steps are to be taken; `gradweight.MultiObjectiveGradient` documents each field.

    `replay` is what replays the combiner, if anything does.

    Raises:
        TypeError, ValueError: a rule that does not answer as one, see `check_rule_once`; ``accumulate`` that is no
            bool, ``refresh_every`` that is no int.
        ValueError: an unknown ``engine`` or ``blocks``; ``refresh_every`` below 1, or above 1 with blocks or with a
            rule that gives no weights; ``engine="gram"`` with blocks or with a rule that reads entries of gradients;
            these, and ``reduce="scatter"``, with a rule that asks for averages of the gradients.
    """

    combiner: Combiner
    replay: Replay | None
    names: ParameterNames | None
    engine: Engine
    accumulate: bool
    blocks: Blocks
    refresh_every: int
    process_group: Group | bool | None
    reduce: Reduce
    auto: AutoEngine = field(default_factory=AutoEngine)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {list(ENGINES)}; got {self.engine!r}")
        check_blocks(self.blocks)
        check_count("refresh_every", self.refresh_every, 1)
        check_flag("accumulate", self.accumulate)
        rule = self.combiner.rule
        check_rule_once(rule)
        if self.refresh_every > 1 and (self.blocks is not None or isinstance(rule, CoordinateRule)):
            raise ValueError(
                f"refresh_every={self.refresh_every} holds one weight per loss: it needs blocks=None and a rule that "
                f"gives weights; got blocks={self.blocks!r} and {rule!r}"
            )

        if self.engine == "gram" and (self.blocks is not None or self.combiner.reads_entries):
            raise ValueError(
                "engine='gram' forms the Gram matrix of all parameters and no gradient of one loss: it needs "
                f"blocks=None and a rule that reads no entries of gradients; got blocks={self.blocks!r} and {rule!r}: "
                "use engine='auto'"
            )

        if self.averager is not None and (self.engine == "gram" or self.refresh_every > 1 or self.reduce == "scatter"):
            raise ValueError(
                f"{rule!r} asks for averages of the gradients, which need the gradient of each loss on every step, on "
                "every process: refresh_every=1, reduce='all' and no engine='gram'; got "
                f"refresh_every={self.refresh_every}, reduce={self.reduce!r} and engine={self.engine!r}"
            )

    @cached_property
    def averager(self) -> Averager | None:
        """What keeps averages of the gradients, for a rule that asks for them."""
        rule = averaging(self.combiner.rule)
        return None if rule is None else Averager(rule)

    def adds_up(self, joined: bool) -> bool:
        """Whether a step may be several micro-batches.

        Without rows, what is added up are directions, each of its own micro-batch's gradients: those that were divided
        by the number of micro-batches would give a rule whose weights go by lengths another length. `join` has both.
        """
        return self.accumulate and (joined or self.engine != "gram")

    def combine(self, given: CombinerInput) -> tuple[Combination, State]:
        """The combination; its direction is written to ``given.out``."""
        return self.combiner(given) if self.replay is None else self.replay(given)

    @property
    def remembers(self) -> bool:
        """Whether anything is kept from step to step."""
        combiner = self.combiner
        return isinstance(combiner.rule, StatefulRule) or "step" in combiner.signals.known or self.refresh_every > 1

    @property
    def why_one_backward(self) -> str:
        """Why a step can have one `backward` only, where it can."""
        if not self.accumulate:
            return "accumulate=False says that a step is one backward, whose rows are not kept"
        if self.engine == "gram":
            return (
                "engine='gram' keeps no rows, and adds up directions of micro-batches that came through join alone, "
                "(opt.join(losses) / n).backward()"
            )
        return "shared= says that a step is one backward, whose rows are not kept"

    @property
    def described(self) -> str:
        """What must be the same on all processes that take a step together."""
        blocks = self.blocks if isinstance(self.blocks, str | Trunk | None) else "by a function"
        return f"{self.combiner.name}, reduce={self.reduce!r}, blocks={blocks!r}, refresh_every={self.refresh_every}"

    def names_of(self, params: list[Tensor]) -> list[str] | None:
        """The names of the parameters; None unless all are known."""
        return None if self.names is None else self.names.of(params)
