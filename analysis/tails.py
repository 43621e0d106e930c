"""Tails of Poisson, Poisson-Gamma and binomial counts as t = -ln p, to full precision however small p is.

Beside few terms of a sum, a tail is a point probability times the area under exp(A ln(1 + alpha u) + B ln(1 + beta u)
+ c u), which Gauss-Legendre quadrature over the part above e^-37 of its height gives to about 1e-13 at any count.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
#: Counts below which the tail is summed term by term.
_FEW = 48
#: What a window's tail is: parameters are (b), (shape, rate, mean), (b, total b, total d), (d + r, rate).
POISSON, POISSON_GAMMA, NORMALISED, CONDITIONAL = 0, 1, 2, 3
_HALF_LOG_2PI = 0.9189385332046727


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _exponent(power: float, alpha: float, other: float, beta: float, linear: float, u: float) -> float:
    out = power * math.log1p(alpha * u) + linear * u
    return out + other * math.log1p(beta * u) if other != 0.0 else out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _log_area(power: float, alpha: float, other: float, beta: float, linear: float, end: float) -> float:
    """ln of the integral of exp(power ln(1 + alpha u) + other ln(1 + beta u) + linear u) over 0 to ``end``.

    The exponent is 0 and falling (or nearly flat) at u = 0 and concave.
    """
    slope = -(power * alpha + other * beta + linear)
    curve = power * alpha * alpha + other * beta * beta
    top = end
    if curve > 0.0:
        top = (math.sqrt(slope * slope + 74.0 * curve) - slope) / curve
    elif slope > 0.0:
        top = 37.0 / slope
    top = min(top, end)
    while top < end and _exponent(power, alpha, other, beta, linear, top) > -36.0:
        top = min(1.2 * top, end)
    total = 0.0
    for i in range(len(_NODES)):
        u = 0.5 * top * (1.0 + _NODES[i])
        total += _WEIGHTS[i] * math.exp(_exponent(power, alpha, other, beta, linear, u))
    return math.log(0.5 * top * total)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def log_poisson(d: float, b: float) -> float:
    """ln of the Poisson probability of d on b > 0."""
    if d == 0.0:
        return -b
    if d < 16.0:
        return d * math.log(b) - b - math.lgamma(d + 1.0)
    s = 1.0 / (d * d)
    stirling = (1.0 / 12.0 - s * (1.0 / 360.0 - s * (1.0 / 1260.0 - s / 1680.0))) / d
    return d * math.log1p((b - d) / d) + (d - b) - stirling - _HALF_LOG_2PI - 0.5 * math.log(d)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def poisson_tail(d: float, b: float, sign: int) -> float:
    """-ln P(N >= d | b) for sign 1 and d > b, -ln P(N <= d | b) for sign -1 and d < b."""
    if sign > 0:
        if d < _FEW:
            term, total, k = 1.0, 1.0, d
            while term > 1e-17 * total:
                k += 1.0
                term *= b / k
                total += term
            return -log_poisson(d, b) - math.log(total)
        return -log_poisson(d, b) - math.log(d) - _log_area(d - 1.0, -1.0, 0.0, 0.0, b, 1.0)
    if d < _FEW:
        term, total, k = 1.0, 1.0, d
        while k > 0.0:
            term *= k / b
            total += term
            k -= 1.0
        return -log_poisson(d, b) - math.log(total)
    return -log_poisson(d, b) - math.log(b) - _log_area(d, 1.0, 0.0, 0.0, -b, np.inf)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def gamma_tail(d: float, a: float, rate: float, sign: int) -> float:
    """-ln of the same tails of N Poisson on a Gamma of shape ``a`` and ``rate``: ln of an incomplete beta function.

    For a = r + 1 also the binomial tail of d among d + r with probability 1 / (1 + rate) (Cousins et al.
    physics/0702156).
    """
    log_q, log_rest = -math.log1p(rate), math.log(rate) - math.log1p(rate)
    if d < _FEW:
        pmf = math.lgamma(d + a) - math.lgamma(a) - math.lgamma(d + 1.0) + d * log_q + a * log_rest
        q, term, total, k = 1.0 / (1.0 + rate), 1.0, 1.0, d
        if sign > 0:
            while term > 1e-17 * total:
                term *= q * (k + a) / (k + 1.0)
                k += 1.0
                total += term
        else:
            while k > 0.0:
                term *= k / (q * (k - 1.0 + a))
                k -= 1.0
                total += term
        return -pmf - math.log(total)
    first = d if sign > 0 else d + 1.0
    beta = math.lgamma(first) + math.lgamma(a) - math.lgamma(first + a)
    front = first * log_q + (a - 1.0) * log_rest - beta
    if sign > 0:
        return -front - _log_area(d - 1.0, -1.0, a - 1.0, 1.0 / rate, 0.0, 1.0)
    return -front - _log_area(d, 1.0, a - 1.0, -1.0 / rate, 0.0, rate)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def mean_of(kind: int, p: Array, d: float) -> float:
    """Expectation that d of a window with parameters p (3,) is compared with."""
    if kind == NORMALISED:
        rest = p[1] - p[0]
        return p[0] * (p[2] - d) / rest if rest > 0.0 else d
    if kind == CONDITIONAL:
        return (p[0] - d) / p[1]
    return p[2] if kind == POISSON_GAMMA else p[0]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def tail_of(kind: int, p: Array, d: float, sign: int) -> float:
    """-ln of the tail from d outwards, whichever side of the expectation d lies on; not for the normalised kind."""
    if kind == POISSON_GAMMA:
        return gamma_tail(d, p[0], p[1], sign)
    if kind == CONDITIONAL:
        # The reference holds what the data left of the fixed sum; its excess is the data's deficit.
        rest = p[0] - d
        return gamma_tail(d, rest + 1.0, p[1], 1) if sign > 0 else gamma_tail(rest, d + 1.0, 1.0 / p[1], 1)
    return poisson_tail(d, p[0], sign) if p[0] > 0.0 else np.inf


@nb.njit(cache=True, nogil=True, error_model="numpy")
def t_of(kind: int, p: Array, d: float, sign: int) -> float:
    """t of d events in a window: 0 unless d lies on the side that ``sign`` asks for (1: excess, -1: deficit)."""
    mean = mean_of(kind, p, d)
    if not sign * (d - mean) > 0.0:
        return 0.0
    if kind == NORMALISED:
        return max(poisson_tail(d, mean, sign), 0.0) if mean > 0.0 else np.inf
    return max(tail_of(kind, p, d, sign), 0.0)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def log_point(kind: int, p: Array, d: float) -> float:
    """ln of the probability of exactly d; not for the normalised kind."""
    if kind == POISSON_GAMMA:
        rest = math.lgamma(d + p[0]) - math.lgamma(p[0]) - math.lgamma(d + 1.0)
        return rest - d * math.log1p(p[1]) + p[0] * (math.log(p[1]) - math.log1p(p[1]))
    if kind == CONDITIONAL:
        rest = math.lgamma(p[0] + 1.0) - math.lgamma(p[0] - d + 1.0) - math.lgamma(d + 1.0)
        return rest - d * math.log1p(p[1]) + (p[0] - d) * (math.log(p[1]) - math.log1p(p[1]))
    return log_poisson(d, p[0])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def point_ratio(kind: int, p: Array, d: float, step: int) -> float:
    """Probability of d + step (1 or -1) over that of d."""
    low = d if step > 0 else d - 1.0
    if kind == POISSON_GAMMA:
        up = (low + p[0]) / ((low + 1.0) * (1.0 + p[1]))
    elif kind == CONDITIONAL:
        up = (p[0] - low) / ((low + 1.0) * p[1])
    else:
        up = p[0] / (low + 1.0)
    return up if step > 0 else 1.0 / up
