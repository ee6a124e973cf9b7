"""The step within a ball whose least gain is largest: the dual of CAGrad's problem, solved exactly."""

from __future__ import annotations

from ...rule import Array, array_namespace
from .active_sets import entering, up_to_the_boundary
from .arrays import at_least, at_most, matvec
from .cone import unless_flat
from .forms import host_form
from .host import ball as host
from .loops import compiled_once, repeated
from .quadratic import MOST_FACES_OF, all_faces, change_on_face, least, optimality_residual, regularised


@host_form(host.best_near)
def best_near(cosine: Array, mean: Array, n: Array, radius: Array) -> tuple[Array, Array]:
    """The y for which ``d = g_0 + V y``, ``|V y| <= radius``, has the largest least gain, and if there is a direction.

    (m, m), 2 (m,), () -> (m,), (). The gain is ``<d, u_i> / n_i``, and y is at least 0. Where no direction raises all
    gains, and the one nearest to g_0 that lowers none is within the radius, it is that one; there is no direction if
    that does not stand out of rounding errors.

    Args:
        cosine: correlations; the rows of zero gradients are empty.
        mean: g_0 in coordinates along the unit gradients, in units of the largest norm.
        n: 1/|g_i| in units of the largest of them, 0 for zero gradients.
        radius: at least 0.
    """
    y = _on_the_sphere(cosine, matvec(cosine, mean), n, radius)
    return unless_flat(y, cosine, mean, n, radius)


def _on_the_sphere(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y of length ``|V y| = radius``; a are the inner products of g_0 with the unit gradients.

    It is optimal if ``s = C y + a - mu n`` is at least 0 and ``y s = 0``: a closed form for two losses, every face for
    up to 8, an active-set method beyond.
    """
    xp = array_namespace(cosine)
    m = cosine.shape[-1]
    method = _of_two if m == 2 else _by_faces if m <= MOST_FACES_OF else _by_active_sets
    y = method(cosine, a, n, radius)
    # the root is right to sqrt(eps) where the discriminant cancels, which a small radius must not show
    return y * radius * inverse_root(xp.sum(y * matvec(cosine, y)))


def inverse_root(squared: Array) -> Array:
    """1 / sqrt, and 0 at 0 with a derivative of 0."""
    xp = array_namespace(squared)
    return xp.where(squared > 0, 1 / xp.sqrt(xp.where(squared > 0, squared, 1)), 0)


def _of_two(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y up to a factor: V y is equally far along both gradients, or along one of them.

    With e the unit vector along ``g_1 - g_2`` and p that along the shortest affine combination, at right angles to it,
    equal gains mean ``<e, g_0 + V y> = 0``, so ``V y = radius (sqrt(1 - k^2) p - k e)``, ``k = <e, g_0>/radius``.
    """
    xp = array_namespace(cosine)
    cos = cosine[0, 1]
    other = xp.flip(n)
    difference = xp.stack([n[1], -n[0]])
    inverse_length = inverse_root(xp.sum(n * (n - cos * other)))
    k = xp.sum(difference * a) * inverse_length / xp.where(radius > 0, radius, 1)
    k = at_most(at_least(k, -1), 1)
    rest = 1 - k**2
    rest = xp.where(rest > 0, xp.sqrt(xp.where(rest > 0, rest, 1)), 0)
    y = rest * inverse_root(1 - cos**2) * (n - cos * other) - k * difference
    y = at_least(y, 0)
    # parallel gradients of one length: any y will do
    return xp.where(xp.any(y > 0), y, n)


def _on_face(cosine: Array, a: Array, n: Array, radius: Array, free: Array) -> tuple[Array, Array, Array, Array]:
    """On each face: y with equal gains mu, mu itself, whether it exists, and a direction of descent where it does not.

    mu is the larger root of a quadratic equation, ``|V y| = radius``. Without a root the dual falls for ever along the
    face.
    """
    xp = array_namespace(cosine)
    inner, rhs = regularised(cosine), xp.stack([n, a])
    # minus, because the change is that to a minimiser; the second step takes the regularisation back out
    along = -change_on_face(inner, free, rhs)
    along = along - change_on_face(inner, free, rhs - matvec(cosine, along))
    along_n, along_a = along[..., 0, :], along[..., 1, :]
    p, q, r = xp.sum(along_n * n, axis=-1), xp.sum(along_n * a, axis=-1), xp.sum(along_a * a, axis=-1)
    discriminant = q**2 - p * (r - radius**2)
    solvable = (discriminant >= 0) & (p > 0)
    # 1 where it is not looked at: the square root has no derivative at 0, and forward-mode differentiation takes it
    mu = (q + xp.sqrt(xp.where(solvable, discriminant, 1))) / xp.where(solvable, p, 1)
    y = mu[..., None] * along_n - along_a
    descent = (q / xp.where(p > 0, p, 1))[..., None] * along_n - along_a
    return y, mu, solvable, descent


def _by_faces(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y: that of the face with the least optimality residual."""
    xp = array_namespace(cosine)
    y, mu, solvable, _ = _on_face(cosine, a, n, radius, all_faces(cosine))
    residual = optimality_residual(cosine, a - mu[:, None] * n, y)
    best = least(xp.where(solvable, residual, xp.inf)[:, None])
    return at_least(xp.sum(best * y, axis=0), 0)


def _by_active_sets(cosine: Array, a: Array, n: Array, radius: Array) -> Array:
    """The optimal y by Lawson and Hanson's steps from face to face, each of which lowers the dual."""
    xp = array_namespace(cosine)
    # from the gradient that is best on its own
    value = xp.where(n > 0, (a + radius) / xp.where(n > 0, n, 1), xp.inf)
    free = least(value[:, None])[:, 0]
    state = (radius * free, free, free[:1] >= 0)
    return repeated(lambda state: _active_set_step(cosine, a, n, radius, *state), 2 * n.shape[0], state)[0]


@compiled_once
def _active_set_step(
    cosine: Array, a: Array, n: Array, radius: Array, y: Array, free: Array, whole: Array
) -> tuple[Array, Array, Array]:
    xp = array_namespace(cosine)
    eps = xp.finfo(n.dtype).eps
    # the dual's derivative at y, |V y| = radius, less its mean over y
    gain = a + matvec(cosine, y)
    along = xp.sum(y * n)
    slack = gain - n * xp.sum(y * gain) / xp.where(along > 0, along, 1)
    free = entering(slack, free, whole, 4 * n.shape[0] * eps * (1 + xp.sum(y)), several=False)
    y_face, _, solvable, descent = _on_face(cosine, a, n, radius, free)
    # without a minimum on the face it is down to its boundary, however far
    y, free, whole = up_to_the_boundary(y, xp.where(solvable, y_face - y, descent / eps), free)
    return y * radius * inverse_root(xp.sum(y * matvec(cosine, y))), free, whole
