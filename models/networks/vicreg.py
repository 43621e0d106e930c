"""VICReg (2105.04906): two views of an event alike, every dimension wide, no two dimensions the same; and its projector.

Rows are events; z and z' (B, D) are the projections of two views. A loss sees its whole batch: where a batch is cut over
workers, each piece is a batch of its own.
"""

from __future__ import annotations

from typing import Any

#: Added to a variance before its root is taken.
_EPSILON = 1e-4
#: Dense layers of a projector, each with batch normalisation.
_LAYERS = 3


def vicreg_terms(z: Any, other: Any, *, weight: Any = None, unbiased: bool = False) -> tuple[Any, Any, Any]:
    """Invariance, variance and covariance, three numbers.

    Invariance: mean of (z - z')^2. Variance: mean over dimensions of relu(1 - sqrt(Var + 1e-4)), the mean of both views.
    Covariance: sum over i != j of C_ij^2 / D, the sum of both views, C with 1 / (B - 1). ``unbiased``: Var is with 1 / (B - 1)
    too, as in the paper; the public code of AXOL1TL has 1 / B. ``weight`` (B,), not negative: means are weighted, and
    1 / (B - 1) becomes what it is for B equal weights, 1 / (B (1 - sum of the squared shares)). Raises `ValueError` for
    other shapes or fewer than two events.
    """
    import torch

    if (
        z.ndim != 2
        or z.shape != other.shape
        or len(z) < 2
        or (weight is not None and weight.shape != z.shape[:1])
    ):
        found = None if weight is None else tuple(weight.shape)
        raise ValueError(
            f"vicreg: found {tuple(z.shape)}, {tuple(other.shape)}, weight {found}; expected views of one shape (B, D), B at "
            "least 2, and (B,)"
        )
    weight = torch.ones_like(z[:, 0]) if weight is None else weight
    share = (weight / weight.sum().clamp(min=1e-30))[:, None]
    correction = 1 / (1 - share.square().sum()).clamp(min=1e-6)
    variance, covariance = z.new_zeros(()), z.new_zeros(())
    for view in (z, other):
        centred = view - (share * view).sum(dim=0)
        spread = (share * centred.square()).sum(dim=0) * (correction if unbiased else 1.0)
        variance = variance + 0.5 * torch.relu(1 - (spread + _EPSILON).sqrt()).mean()
        matrix = (share * centred).T @ centred * correction
        off = matrix - torch.diag(matrix.diagonal())
        covariance = covariance + off.square().sum() / z.shape[1]
    invariance = (share * (z - other).square()).sum(dim=0).mean()
    return invariance, variance, covariance


def vicreg(
    z: Any,
    other: Any,
    *,
    weight: Any = None,
    coefficients: tuple[float, float, float] = (50.0, 50.0, 1.0),
    unbiased: bool = False,
) -> Any:
    """The sum of `vicreg_terms` times ``coefficients``; the defaults are those of AXOL1TL's version 5."""
    terms = vicreg_terms(z, other, weight=weight, unbiased=unbiased)
    return sum(a * term for a, term in zip(coefficients, terms, strict=True))


def projector(inputs: int, width: int) -> Any:
    """Three dense layers of ``width``, each with batch normalisation, ReLU between them; weights are not set.

    No layer has a bias, which the normalisation would take away. Statistics are always those of the batch.
    """
    from torch.nn import BatchNorm1d, Linear, ReLU, Sequential
    from torch.nn.utils import skip_init

    parts: list[Any] = []
    for i in range(_LAYERS):
        parts += [
            skip_init(Linear, width if i else inputs, width, bias=False),
            BatchNorm1d(width, track_running_stats=False),
            ReLU(),
        ]
    return Sequential(*parts[:-1])
