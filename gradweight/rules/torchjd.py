"""Any weighting of TorchJD as a rule."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..rule import Array, array_namespace, is_tensor


@dataclass(frozen=True)
class FromTorchJD:
    """A TorchJD weighting, called on the Gram matrix: (m, m) -> (m,). Made by `from_torchjd`."""

    weighting: Any

    def __call__(self, gram: Array, /) -> Array:
        if is_tensor(gram):
            return self.weighting(gram)
        import torch

        weights = self.weighting(torch.tensor(np.asarray(gram), device="cpu"))
        return array_namespace(gram).asarray(weights.detach().numpy(), dtype=gram.dtype)


def from_torchjd(weighting: Any) -> FromTorchJD:
    """A weighting of TorchJD as a rule, so that its methods run under `MultiObjectiveGradient` unchanged.

    The rule does what the weighting does: what it computes on the host makes the device wait, what it draws comes
    from torch's own generator, what it remembers stays in the weighting and is in no checkpoint of the optimizer,
    and zero gradients are in the hands of its own regularisation. NumPy and JAX arrays go to the host and back, so that
    under ``jax.jit`` and other transforms it raises JAX's `TracerArrayConversionError`.

    Args:
        weighting: a `torchjd.aggregation.Weighting` of the Gramian (or one that only counts the gradients), or an
            aggregator that computes its weights from the Gramian.
            Aggregators that need the gradients themselves (ConFIG, GradDrop, TrimmedMean, NashMTL) are no weightings;
            the rules of those names here are.

    Raises:
        ImportError: TorchJD is not installed.
        TypeError: not a weighting.

    Example:
        >>> import torch                                                           # doctest: +SKIP
        >>> from torchjd.aggregation import UPGradWeighting                        # doctest: +SKIP
        >>> from_torchjd(UPGradWeighting())(torch.eye(2))                          # doctest: +SKIP
        tensor([0.5000, 0.5000])

    Reference:
        Quinton, Rey. Jacobian Descent for Multi-Objective Optimization. arXiv:2406.16232; the library is TorchJD.
    """
    try:
        from torchjd.aggregation import Weighting
    except ImportError as error:
        raise ImportError(
            "from_torchjd needs the package torchjd, which is not a dependency of gradweight: pip install torchjd "
            '(with "torchjd[full]" for the weightings that call a solver)'
        ) from error
    weighting = getattr(weighting, "gramian_weighting", weighting)
    if not isinstance(weighting, Weighting):
        raise TypeError(
            "from_torchjd needs a torchjd.aggregation.Weighting, or an aggregator with a gramian_weighting; got "
            f"{weighting.__name__ if isinstance(weighting, type) else type(weighting).__name__}"
        )
    return FromTorchJD(weighting)
