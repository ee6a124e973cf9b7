"""What can be claimed of a rule."""

from dataclasses import dataclass, field

from ..rule import CoordinateRule, Rule, Signals, StatefulRule, averaging

__all__ = ["NAMES", "Claims"]

NAMES = tuple("abcdefghijklmnop")
"""Names of the losses that the claims are made for: the first m of them."""


@dataclass(frozen=True)
class Claims:
    """A rule, when to use it, and the properties that hold for it.

    For a rule that asks for averages over the steps, they hold of what it makes of the averages, g_i being these.

    Args:
        rule: an instance; rules that look for losses by name find those of `NAMES`.
        use: when to use it, in a few plain words.
        setting: "(arguments)", where the list holds the class more than once.
        non_conflicting: d makes no obtuse angle with any gradient, so that no loss rises to first order.
        degree: d scales as the ``degree``-th power of the common length of the gradients; 1 is scale-equivariant, as
            the sum is, and 0 means a step that is as long for small gradients as for large ones. None: no such law.
        invariant_to_loss_scale: multiplying one loss by a positive number turns d nowhere (it may lengthen it).
        permutation_equivariant: d does not depend on the order or the names of the losses, and leaving out a loss
            whose gradient is zero gives the same d as never having had it.
        vanishes_only_where_stationary: d is zero only where some convex combination of the gradients is, which is
            where no step lowers all the losses to first order.
        linear_under_scaling: d is a linear function of positive factors on the losses, which keeps the effect of a
            learning rate, or of a small loss, proportional.
        differentiable: weights have the derivative with respect to the Gram matrix that autograd computes, almost
            everywhere.
        reads_gradients: False if the weights depend on the gradients only in that zero ones are left out, whatever
            the Gram matrix holds beside.
        losses: the smallest and the largest m that it takes.
        needs: names of the losses whose gradient must not be zero for the claims to hold.
        signals: values for the signals that it requires beside those that are supplied automatically.
    """

    rule: Rule
    use: str
    setting: str = ""
    non_conflicting: bool = False
    degree: float | None = 1
    invariant_to_loss_scale: bool = False
    permutation_equivariant: bool = True
    vanishes_only_where_stationary: bool = False
    linear_under_scaling: bool = False
    differentiable: bool = True
    reads_gradients: bool = True
    losses: tuple[int, int] = (1, 16)
    needs: tuple[str, ...] = ()
    signals: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How a table or a test calls it: the class, and what sets this instance apart from others of it."""
        return type(self.rule).__name__ + self.setting

    @property
    def averages(self) -> bool:
        """Whether it is shown averages over the steps in place of gradients, which only a wrapped optimizer keeps."""
        return averaging(self.rule) is not None

    @property
    def kind(self) -> str:
        """What it is computed from: coordinates, or Gram matrix, statistics, losses, signals, a state, averages."""
        declared = Signals.of(self.rule)
        of_gradients = "Gram" if not declared.statistics else "statistics"
        of_gradients = "coordinates" if isinstance(self.rule, CoordinateRule) else of_gradients
        parts = [of_gradients] if self.reads_gradients else []
        parts += ["losses"] if "losses" in declared.required else []
        parts += list(self.signals)
        parts += ["state"] if isinstance(self.rule, StatefulRule) else []
        parts += ["averages"] if self.averages else []
        return ", ".join(parts) or "nothing"
