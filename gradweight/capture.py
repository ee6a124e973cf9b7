"""Whole training steps as CUDA graphs: forward, the backward pass of each loss, rule and update in one launch."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree

__all__ = ["CapturedStep", "capture_step"]

P = ParamSpec("P")
R = TypeVar("R")


def capture_step(function: Callable[P, R], *, warmup: int = 3) -> "CapturedStep[P, R]":
    """A function that trains as ``function`` does, and from call number ``warmup + 1`` on replays one CUDA graph.

    Every call is one training step on the batch that it is given. The first ``warmup`` calls run as they are, on a
    stream of their own, so that everything that is set up once is set up. The next call is captured and replayed; from
    then on a call copies its tensors to where the captured step reads them, and replays.

    What torch requires of a captured step: the base optimizer is ``capturable=True``; signals are tensors and not
    numbers; nothing in the step is a host sync; a learning rate that changes is a tensor
    (``Adam(params, lr=torch.tensor(1e-3), capturable=True)``, which torch's schedulers write to in place). Python
    in the step runs once: ``opt.last`` holds the tensors that every replay writes to, ``opt.history`` grows no more.
    `refresh_every` and `torch.amp.GradScaler`, whose host decides, cannot be captured.

    Args:
        function: one training step, ``zero_grad`` included. Its arguments are tensors on one CUDA device, or lists,
            tuples and dicts of them; other values must be the same on every call. What it returns is overwritten by
            the next call.
        warmup: how many calls run before one is captured, at least 1.

    Raises:
        ValueError: ``warmup`` below 1; on a call, no tensor on a CUDA device, or tensors of other shapes, dtypes,
            devices or other values than those of the captured call.

    Example:
        >>> def train(real, fake):  # doctest: +SKIP
        ...     opt.zero_grad()
        ...     seen = opt.backward({"real": on_real(net(real)), "fake": on_fake(net(fake))})
        ...     opt.step()
        ...     return seen.losses
        >>> train = capture_step(train)  # doctest: +SKIP
        >>> for real, fake in loader:  # doctest: +SKIP
        ...     losses = train(real.cuda(), fake.cuda())
    """
    return CapturedStep(function, warmup)


class CapturedStep(Generic[P, R]):
    """What `capture_step` returns."""

    def __init__(self, function: Callable[P, R], warmup: int) -> None:
        if warmup < 1:
            raise ValueError(f"warmup must be at least 1, or what is set up once would be captured; got {warmup}")
        self.function = function
        self.warmup = warmup
        self.calls = 0
        self._stream: torch.cuda.Stream | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Any] = []
        self._layout: _pytree.TreeSpec | None = None
        self._result: Any = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """One training step."""
        values, layout = _pytree.tree_flatten((args, kwargs))
        device = next((v.device for v in values if isinstance(v, Tensor) and v.is_cuda), None)
        if device is None:
            raise ValueError("a captured step needs a tensor on a CUDA device among its arguments; got none")
        if self._graph is not None:
            self._copy(values, layout)
            self._graph.replay()
        elif self.calls < self.warmup:
            self._result = self._on_a_stream(device, lambda: self.function(*args, **kwargs))
        else:
            self._capture(values, layout, device)
        self.calls += 1
        result: R = self._result
        return result

    def _on_a_stream(self, device: torch.device, call: Callable[[], Any]) -> Any:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = call()
        current.wait_stream(self._stream)
        return result

    def _capture(self, values: list[Any], layout: _pytree.TreeSpec, device: torch.device) -> None:
        self._inputs = [v.clone() if isinstance(v, Tensor) else v for v in values]
        self._layout = layout
        args, kwargs = _pytree.tree_unflatten(self._inputs, layout)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, stream=self._stream):
            self._result = self.function(*args, **kwargs)
        self._graph = graph
        graph.replay()  # capturing has computed nothing

    def _copy(self, values: list[Any], layout: _pytree.TreeSpec) -> None:
        same = layout == self._layout and all(map(_alike, self._inputs, values))
        if not same:
            raise ValueError(
                f"a captured step needs arguments like those it was captured with, {_described(self._inputs)}; got "
                f"{_described(values)}: leave out the last batch where it is smaller (drop_last=True)"
            )
        for ours, given in zip(self._inputs, values, strict=True):
            if isinstance(ours, Tensor):
                ours.copy_(given, non_blocking=True)


def _alike(ours: Any, given: Any) -> bool:
    if not isinstance(ours, Tensor):
        return type(ours) is type(given) and bool(ours == given)
    return isinstance(given, Tensor) and (ours.shape, ours.dtype, ours.device) == (
        given.shape,
        given.dtype,
        given.device,
    )


def _described(values: list[Any]) -> str:
    return ", ".join(
        f"{str(v.dtype).removeprefix('torch.')}{list(v.shape)} on {v.device}" if isinstance(v, Tensor) else repr(v)
        for v in values
    )
