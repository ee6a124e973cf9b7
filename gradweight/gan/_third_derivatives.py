"""Third derivatives that torch gets wrong without an error: found in a loss's graph, and explained."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from ..gradients.graph import Graph

__all__ = ["explanation", "layers_that_take_statistics", "wrong_kinds"]

_REMEDIES = {
    "InstanceNorm or BatchNorm": "GroupNorm(C, C), which equals InstanceNorm(C), or BatchNorm in evaluation mode",
    "LayerNorm": "GroupNorm(1, C), which equals LayerNorm over channels and positions, or RMSNorm",
}


def wrong_kinds(loss: Tensor) -> list[str]:
    """Which layers the loss already holds the second derivative of, in a form that cannot be differentiated again.

    The derivative formulas of `native_batch_norm_backward` and `native_layer_norm_backward` take the saved mean and
    deviation for constants. That is right where they are: in evaluation mode.
    """
    kinds = set()
    for node in Graph.of(loss).nodes:
        name = type(node).__name__
        if "LayerNormBackwardBackward" in name:
            kinds.add("LayerNorm")
        elif "BatchNormBackwardBackward" in name and getattr(node, "_saved_train", True):
            kinds.add("InstanceNorm or BatchNorm")
    return sorted(kinds)


def layers_that_take_statistics(run: Callable[[], object]) -> list[str]:
    """The normalization layers that ``run()`` calls, as ``name: module``."""
    called: list[nn.Module] = []
    handle = register_module_forward_pre_hook(lambda module, inputs: called.append(module))
    try:
        run()
    finally:
        handle.remove()
    found: dict[nn.Module, str] = {}
    for root in called:
        for name, module in root.named_modules():
            if module in called and _takes_statistics(module):
                found.setdefault(module, f"{name}: {module}" if name else str(module))
    return list(found.values())


def _takes_statistics(module: nn.Module) -> bool:
    if isinstance(module, nn.LayerNorm):
        return True
    if isinstance(module, _BatchNorm):
        return module.training or module.running_mean is None
    return isinstance(module, _NormBase) and (module.training or not module.track_running_stats)


def explanation(kinds: list[str], layers: list[str]) -> str:
    """What is wrong, where, and what to do instead."""
    where = f"; here in {layers}" if layers else ""
    return (
        f"the adversary's loss holds a gradient penalty through {' and '.join(kinds)}{where}. The penalty's place "
        "inside r takes a third derivative of the layer, which torch gets wrong silently. Use "
        f"{'; '.join(_REMEDIES[kind] for kind in kinds)}; or leave the gradient penalty out of r; or pass check=False "
        "if it does not depend on what r is differentiated by"
    )
