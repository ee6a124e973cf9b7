"""Deprecation: how what is to go says so, for one minor version; `docs/compatibility.md` has the policy."""

from __future__ import annotations

import warnings

__all__ = ["warn_deprecated"]


def warn_deprecated(what: str, instead: str, removed_in: str, *, stacklevel: int = 3) -> None:
    """Warn that something is to go, what to write instead, and when.

    A `FutureWarning`, which is shown by default: it is for whoever trains a model, not for authors of libraries only.

    Args:
        what: what the user wrote, as they wrote it.
        instead: what to write.
        removed_in: the version that no longer has it.
        stacklevel: 3 points at the caller of the function that calls this.

    Example:
        >>> import pytest
        >>> def old():
        ...     warn_deprecated("opt.old()", "opt.new()", "0.4")
        >>> with pytest.warns(FutureWarning, match="goes with gradweight 0.4; write opt.new"):
        ...     old()
    """
    warnings.warn(f"{what} goes with gradweight {removed_in}; write {instead}", FutureWarning, stacklevel=stacklevel)
