"""The AdvAs penalty: how far an adversary is from having nothing to gain, as a further loss for the generator."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..adversarial import inner_product, squared_norm_without_bias, wide
from ..contract.arguments import check_phi
from ..gradients.graph import Graph
from ..gradients.losses import check_losses
from ._third_derivatives import explanation, layers_that_take_statistics, wrong_kinds

__all__ = ["advas_penalty", "advas_penalty_half_batches", "advas_penalty_unbiased"]

Params: TypeAlias = Mapping[str, Tensor]
Gradient: TypeAlias = dict[str, Tensor]
Engine: TypeAlias = Literal["autograd", "func"]


def advas_penalty(
    adversary_loss: Callable[[dict[str, Tensor]], Tensor] | Mapping[str, Tensor] | Tensor,
    phi: Params,
    *,
    engine: Engine = "autograd",
    check: bool = True,
) -> Tensor:
    """The squared norm of the gradient that the adversary would be trained with, differentiable to the generator.

    ``r = |grad_phi L_adv(theta, phi)|^2``, a scalar in [0, inf), in at least float32; its derivative by theta goes
    through the fake samples that ``adversary_loss`` holds, which must not be detached. It is differentiable to whatever
    else the loss depends on too, phi included, so differentiate by the generator's parameters only: `backward` of an
    optimizer over them does.

    Pass it as the loss ``"advas"`` beside the generator's own, with the rule `gradweight.rules.AdvAs` to weight it, on
    every step or on every n-th. It costs a forward and a backward of the adversary on either kind of samples, and twice
    that again on the fake ones when it is differentiated. The terms of `GANLoss.discriminator`, of logits that the
    generator's own loss needs too, save a forward and the memory that the real samples take; see docs/gan.md.

    Estimated from a batch, r is too large by the variance of the gradient over the batch, ``Var / n``; see
    `advas_penalty_unbiased` and `advas_penalty_half_batches`. The authors saw no difference in training.

    Args:
        adversary_loss: a function of the adversary's parameters, a dict like ``phi``, that returns the scalar L_adv:
            the sum of the terms of `GANLoss.discriminator`, say, of logits from
            ``torch.func.functional_call(adversary, phi, (fake,))``. `Hinge` is better without truncation here.
            Or L_adv itself, computed from an adversary that is not frozen. Or its terms, a mapping of scalars that
            are added up: one that depends on phi alone, as that on real samples does, is a constant to the generator.
            Its gradient is taken without a graph and its own graph is freed, and r knows nothing of its place in
            the derivative by phi.
        phi: the adversary's parameters that are trained, ``dict(adversary.named_parameters())``. A function is
            differentiated by frozen ones all the same. A parameter that the loss does not reach adds nothing.
        engine: "autograd", or "func" for a penalty inside `torch.func` transforms: ``torch.vmap`` over an ensemble,
            say. There, modules that write to themselves in the forward (batch and spectral normalization in training
            mode) and `gradient_penalty` cannot be run.
        check: False if a gradient penalty inside ``adversary_loss`` does not depend on what r will be
            differentiated by, as R1 on real samples does not depend on the generator: its third derivative is not
            needed then, and the layers below are right.

    Raises:
        NotImplementedError: ``adversary_loss`` holds a gradient penalty through InstanceNorm, LayerNorm or batch
            normalization with the batch's statistics. Its place in r takes the third derivative of the layer, and
            torch (2.13) takes the statistics in it for constants: no error, wrong numbers. GroupNorm and RMSNorm are
            right, and ``GroupNorm(C, C)`` is InstanceNorm. ``engine="func"`` makes the same check.
        TypeError: ``engine="func"`` for a loss that is not a function; ``phi`` is no mapping.
        ValueError: a loss that is not scalar or does not depend on ``phi``; a frozen parameter where the loss is not
            a function; an unknown ``engine``.

    Example:
        >>> fake = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        >>> def adversary_loss(phi):  # its gradient is the mean of the fake samples
        ...     return (fake @ phi["w"]).mean()
        >>> r = advas_penalty(adversary_loss, {"w": torch.zeros(2)})
        >>> r.detach()  # |(2, 3)|^2
        tensor(13.)
        >>> torch.autograd.grad(r, fake)[0]
        tensor([[2., 3.],
                [2., 3.]])

        From terms that have been computed:

        >>> w = torch.zeros(2, requires_grad=True)
        >>> terms = {"real": -(torch.ones(5, 2) @ w).mean(), "fake": (fake @ w).mean()}
        >>> advas_penalty(terms, {"w": w}).detach()  # |(2, 3) - (1, 1)|^2
        tensor(5.)

    Reference:
        Munk, Harvey, Wood. Assisting the Adversary to Improve GAN Training. ICLR 2021 submission,
        arXiv:2010.01274, Eq. 9 and 10; section 5 for the hinge.
    """
    check_phi(phi)
    if callable(adversary_loss):
        gradient = _gradient(adversary_loss, phi, engine, check)
    elif engine == "func":
        raise TypeError(
            f'engine="func" needs a function of phi; got a {type(adversary_loss).__name__}, whose graph exists already'
        )
    else:
        gradient = _gradient_of_terms(adversary_loss, phi, check)
    return _inner(gradient, gradient)


def advas_penalty_half_batches(
    adversary_loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    phi: Params,
    fake: Tensor,
    real: Tensor,
    *,
    engine: Engine = "autograd",
    check: bool = True,
) -> Tensor:
    """AdvAs without bias: the inner product of the adversary's gradients on the two halves of the batch.

    ``r = <grad_phi L_adv(half 1), grad_phi L_adv(half 2)>``, a scalar. The halves are independent, so its
    expectation is ``|E grad|^2``, that of the gradient on half a batch. It can be negative; its gradient by theta is
    without bias too. Unlike `advas_penalty_unbiased` it needs no gradient per sample.

    The loss must be a mean over samples: with batch normalization, each half has statistics of its own.

    Args:
        adversary_loss: a function (phi, fake, real) -> scalar.
        phi: as for `advas_penalty`.
        fake: (n, ...) with n >= 2, attached to the generator's graph.
        real: (m, ...) with m >= 2.
        engine, check: as for `advas_penalty`.

    Raises:
        NotImplementedError, ValueError: as for `advas_penalty`; fewer than two samples.

    Example:
        >>> def adversary_loss(phi, fake, real):
        ...     return (fake @ phi["w"]).mean() - (real @ phi["w"]).mean()
        >>> fake, real = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.zeros(2, 2)
        >>> advas_penalty_half_batches(adversary_loss, {"w": torch.zeros(2)}, fake, real).detach()  # <(1, 0), (3, 1)>
        tensor(3.)

    Reference:
        Munk, Harvey, Wood. arXiv:2010.01274, appendix B, has the problem; this estimator is the textbook's.
    """
    check_phi(phi)
    for name, samples in (("fake", fake), ("real", real)):
        if len(samples) < 2:
            raise ValueError(f"advas_penalty_half_batches needs at least 2 {name} samples; got {len(samples)}")
    halves = zip(fake.tensor_split(2), real.tensor_split(2), strict=True)
    first, second = (
        _gradient(lambda p, f=f, r=r: adversary_loss(p, f, r), phi, engine, check)  # type: ignore[misc]
        for f, r in halves
    )
    return _inner(first, second)


def advas_penalty_unbiased(
    per_sample_loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor], phi: Params, fake: Tensor, real: Tensor
) -> Tensor:
    """AdvAs without bias: the biased estimate less the variance of the mean gradient.

    With ``g_i = grad_phi l(phi, fake_i, real_i)`` and ``E[x]^2 = E[x^2] - Var[x]`` in every coordinate,

        ``r = mean_i |g_i|^2 - sum_i |g_i - mean g|^2 / (n - 1) = |mean g|^2 - Var / n``,

    a scalar; the right-hand form is computed, which cancels less. Its expectation is ``|E g|^2``. It can be negative,
    and its gradient by theta is without bias too. Holds n gradients at once; `advas_penalty_half_batches` needs two.

    Args:
        per_sample_loss: a function (phi, fake_i, real_i) -> scalar of one pair of samples, *without* a batch
            dimension; it is run under ``torch.vmap``, so without batch statistics and in-place updates.
        phi: as for `advas_penalty`.
        fake: (n, ...) with n >= 2, attached to the generator's graph.
        real: (n, ...), each paired with a fake one.

    Raises:
        NotImplementedError: as for `advas_penalty`.
        ValueError: batches of different or too small size; a loss that does not depend on ``phi``.

    Example:
        >>> def per_sample_loss(phi, fake, real):
        ...     return (fake - real) @ phi["w"]
        >>> fake, real = torch.tensor([[1.0, 0.0], [3.0, 1.0]]), torch.zeros(2, 2)
        >>> advas_penalty_unbiased(per_sample_loss, {"w": torch.zeros(2)}, fake, real)  # n = 2: <g_1, g_2>
        tensor(3.)

    Reference:
        Munk, Harvey, Wood. arXiv:2010.01274, appendix B, Eq. 14 to 18. As printed, Eq. 15 and 16 *add* the variance:
        for n = 8, a true value of 3.96 and a biased estimate of 8.4, that gives 74.8. Here it is subtracted.
    """
    check_phi(phi)
    if len(fake) != len(real) or len(fake) < 2:
        raise ValueError(
            "advas_penalty_unbiased needs as many real samples as fake ones, at least 2; got "
            f"{len(real)} real and {len(fake)} fake"
        )

    def gradient(f: Tensor, r: Tensor) -> Gradient:
        return _gradient(lambda p: per_sample_loss(p, f, r), phi, "func", True)

    gradients = torch.vmap(gradient, randomness="different")(fake, real)  # dropout has a mask for each sample
    penalty: Tensor = squared_norm_without_bias([*gradients.values()])
    return penalty


def _inner(first: Gradient, second: Gradient) -> Tensor:
    both = [name for name in first if name in second]
    product: Tensor = inner_product([first[name] for name in both], [second[name] for name in both])
    return product


def _gradient(loss_fn: Callable[[dict[str, Tensor]], Tensor], phi: Params, engine: Engine, check: bool) -> Gradient:
    """The gradient of the loss by each parameter that it reaches, in float32 at least, with a graph."""

    def checked_loss(params: dict[str, Tensor]) -> Tensor:
        loss = loss_fn(params)
        if loss.dim() > 0 and loss.numel() != 1:
            raise ValueError(f"the adversary's loss must be a scalar; got shape {tuple(loss.shape)}")
        if check and (kinds := wrong_kinds(loss)):
            raise NotImplementedError(explanation(kinds, layers_that_take_statistics(lambda: loss_fn(params))))
        return loss.reshape(())

    found: Sequence[Tensor | None]
    if engine == "autograd":
        inputs = {name: p if p.requires_grad else p.detach().requires_grad_() for name, p in phi.items()}
        with torch.enable_grad():
            loss = checked_loss(inputs)
            if loss.grad_fn is None:
                raise ValueError(_unreached(phi))
            found = torch.autograd.grad(loss, list(inputs.values()), create_graph=True, allow_unused=True)
    elif engine == "func":
        names = tuple(phi)

        def record(*values: Tensor) -> tuple[Tensor, Any]:
            inputs = dict(zip(names, values, strict=True))
            loss = checked_loss(inputs)
            if loss.grad_fn is None:
                raise ValueError(_unreached(phi))
            # inside the level, where a parameter that the loss does not reach is None and not zeros
            return loss, torch.autograd.grad(loss, values, create_graph=True, allow_unused=True)

        _, _, found = torch.func.vjp(record, *phi.values(), has_aux=True)  # type: ignore[misc]
    else:
        raise ValueError(f"engine must be 'autograd' or 'func'; got {engine!r}")
    return _reached(phi, [found])


def _gradient_of_terms(terms: Tensor | Mapping[str, Tensor], phi: Params, check: bool) -> Gradient:
    """The same of losses whose graphs exist. Terms of a mapping that hold phi and nothing else come without a graph."""
    alone = isinstance(terms, Tensor)
    values = check_losses({"adversary_loss": terms} if alone else terms)
    if frozen := [name for name, p in phi.items() if not p.requires_grad]:
        raise ValueError(
            f"terms that have been computed are differentiated by parameters that require gradients; {frozen} do not: "
            "leave them out of phi, or pass a function of phi, which differentiates by frozen parameters too"
        )
    leaves = {id(p) for p in phi.values()}
    fixed = [v for v in values.values() if not alone and Graph.of(v).leaves.keys() <= leaves]
    attached = [v for v in values.values() if not any(v is w for w in fixed)]
    sums = [torch.stack([v.reshape(()) for v in part]).sum() for part in (fixed, attached) if part]
    keep = [graph.shared for graph in Graph.of_each(sums)]
    inputs = list(phi.values())
    found = []
    if fixed:
        found.append(torch.autograd.grad(sums[0], inputs, retain_graph=keep[0], allow_unused=True))
    if attached:
        if check and (kinds := wrong_kinds(sums[-1])):
            raise NotImplementedError(explanation(kinds, []))
        found.append(torch.autograd.grad(sums[-1], inputs, create_graph=True, allow_unused=True))
    return _reached(phi, found)


def _reached(phi: Params, found: Sequence[Sequence[Tensor | None]]) -> Gradient:
    """The sum of the gradients found, by name, in float32 at least, of the parameters that any of them reaches."""
    gradient: Gradient = {}
    for part in found:
        for name, g in zip(phi, part, strict=True):
            if g is not None:
                gradient[name] = gradient[name] + wide(g) if name in gradient else wide(g)
    if not gradient:
        raise ValueError(_unreached(phi))
    return gradient


def _unreached(phi: Params) -> str:
    return (
        f"the adversary's loss must depend on phi; it reaches none of {list(phi)}: run the adversary as "
        "torch.func.functional_call(adversary, phi, (samples,))"
    )
