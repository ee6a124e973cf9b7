"""What the adversarial papers need beside a rule."""

from .metrics import high_quality_share, mode_kl, modes_covered

__all__ = ["high_quality_share", "mode_kl", "modes_covered"]
