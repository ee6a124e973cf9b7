"""TorchJD's weightings as rules."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gradweight import MultiObjectiveGradient
from gradweight.rules import (
    from_torchjd,
)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ImportError, match="from_torchjd needs the package torchjd"):
        from_torchjd(object())


peer = pytest.importorskip("torchjd.aggregation")


def test_a_weighting_drives_the_optimizer():
    rows = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    p = torch.nn.Parameter(torch.zeros(3))
    opt = MultiObjectiveGradient(torch.optim.SGD([p], lr=0.1), from_torchjd(peer.UPGradWeighting()))
    opt.backward({"a": rows[0] @ p, "b": rows[1] @ p})
    torch.testing.assert_close(p.grad, peer.UPGrad()(rows))


def test_numpy_in_numpy_out():
    gram = np.array([[2.0, 1.0], [1.0, 3.0]])
    found = from_torchjd(peer.UPGrad())(gram)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, peer.UPGradWeighting()(torch.tensor(gram)).numpy())


@pytest.mark.parametrize("what", [peer.TrimmedMean(1), peer.UPGradWeighting, "UPGrad"])
def test_what_is_no_weighting(what):
    with pytest.raises(TypeError, match=r"from_torchjd needs a torchjd\.aggregation\.Weighting"):
        from_torchjd(what)
