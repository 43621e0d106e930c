"""Contrastive losses: pure functions of embeddings, which they bring to unit length themselves.

Rows are events; z, z' and z* (B, D) are an event, a physically augmented view of it and an anomalous one. s(a, b) is the cosine.
Sums of exponentials are taken as log-sum-exp. A loss sees its whole batch: where a batch is cut over workers, the embeddings
must be gathered before.
"""

from __future__ import annotations

from typing import Any, Literal


def _unit(z: Any) -> Any:
    import torch

    return torch.nn.functional.normalize(z, dim=-1)


def supcon(
    z: Any, labels: Any | None = None, *, tau: float = 0.07, anchors: Literal["all", "one"] = "all"
) -> Any:
    """Supervised contrastive loss (2004.11362) of z (B, V, D), V views of every event; without ``labels`` (B,) SimCLR's.

    Mean over anchors i of -(1 / max(1, |P(i)|)) sum over p in P(i) of [s_ip / tau - ln sum over a != i of exp(s_ia / tau)]:
    P(i), the positives, are the other rows of i's label (without labels: the other views of its event). An anchor without
    positives adds 0. ``anchors`` "one": only the first view of an event is an anchor. The paper's factor tau / tau_0 is 1. Raises `ValueError` for other shapes.
    """
    import torch

    if z.ndim != 3 or (labels is not None and labels.shape != z.shape[:1]):
        found = None if labels is None else tuple(labels.shape)
        raise ValueError(f"supcon: found z {tuple(z.shape)}, labels {found}; expected (B, V, D) and (B,)")
    events, views, _ = z.shape
    rows = _unit(z).transpose(0, 1).reshape(events * views, -1)
    label = torch.arange(events, device=z.device) if labels is None else labels
    label = label.repeat(views)
    chosen = slice(None) if anchors == "all" else slice(0, events)
    logits = rows[chosen] @ rows.T / tau
    itself = torch.eye(len(rows), dtype=torch.bool, device=z.device)[chosen]
    positive = (label[chosen, None] == label[None, :]) & ~itself
    log_share = logits - torch.logsumexp(logits.masked_fill(itself, -torch.inf), dim=1, keepdim=True)
    total = torch.where(positive, log_share, torch.zeros_like(log_share)).sum(dim=1)
    return -(total / positive.sum(dim=1).clamp(min=1)).mean()


def _pairs(z: Any, other: Any) -> tuple[Any, Any]:
    """Cosines of every row of both views with every other (2B, 2B), and of each event with its view (B,)."""
    import torch

    rows = _unit(torch.cat([z, other]))
    return rows @ rows.T, (rows[: len(z)] * rows[len(z) :]).sum(dim=1)


def _without(cosines: Any, tau: float, *, positive: bool) -> Any:
    """ln sum of exp(s / tau) over all rows but oneself (and one's own view, unless ``positive``), (2B,)."""
    import torch

    n = len(cosines)
    left_out = torch.eye(n, dtype=torch.bool, device=cosines.device)
    if not positive:
        left_out = left_out | left_out.roll(n // 2, dims=1)
    return torch.logsumexp((cosines / tau).masked_fill(left_out, -torch.inf), dim=1)


def _checked(who: str, *views: Any) -> None:
    if any(v.ndim != 2 or v.shape != views[0].shape for v in views) or len(views[0]) == 0:
        shapes = ", ".join(str(tuple(v.shape)) for v in views)
        raise ValueError(f"{who}: found {shapes}; expected views of one shape (B, D), B at least 1")


def nt_xent(z: Any, physical: Any, *, tau: float = 0.1) -> Any:
    """JetCLR's loss (2108.04253): over both views, -ln of the positive's share of all rows but oneself, itself included."""
    _checked("nt_xent", z, physical)
    cosines, close = _pairs(z, physical)
    return _without(cosines, tau, positive=True).mean() - close.mean() / tau


def _two_events(who: str, z: Any) -> None:
    if len(z) < 2:
        raise ValueError(f"{who}: one event has no negatives; use batches of at least 2")


def clr(z: Any, physical: Any, *, tau: float = 0.1) -> Any:
    """CLR of 2301.04660: as `nt_xent`, but the positive is not among the negatives, so the loss may be below 0."""
    _checked("clr", z, physical)
    _two_events("clr", z)
    cosines, close = _pairs(z, physical)
    return _without(cosines, tau, positive=False).mean() - close.mean() / tau


def anomclr(z: Any, physical: Any, anomalous: Any, *, tau: float = 0.1) -> Any:
    """AnomCLR (2301.04660): `clr` that pushes an event away from its anomalous view too."""
    _checked("anomclr", z, physical, anomalous)
    _two_events("anomclr", z)
    far = (_unit(z) * _unit(anomalous)).sum(dim=1)
    return clr(z, physical, tau=tau) + far.mean() / tau


def anomclr_plus(z: Any, physical: Any, anomalous: Any, *, tau: float = 0.1) -> Any:
    """AnomCLR+ (2301.04660): mean of [s(z, z*) - s(z, z')] / tau, between -2 / tau and 2 / tau.

    Nothing holds events apart: all of them in one point opposite to one anomalous point is a minimum, so watch `uniformity`.
    """
    _checked("anomclr_plus", z, physical, anomalous)
    own = _unit(z)
    return ((own * _unit(anomalous)).sum(dim=1) - (own * _unit(physical)).sum(dim=1)).mean() / tau


def darkclr(z: Any, physical: Any, anomalous: Any, *, tau: float = 0.1, size: float = 1e-3) -> Any:
    """DarkCLR (2312.03067): `anomclr_plus` and ``size`` times the mean length of z."""
    return anomclr_plus(z, physical, anomalous, tau=tau) + size * z.norm(dim=1).mean()


def alignment(z: Any, other: Any) -> Any:
    """Mean squared distance of two views on the unit sphere (2005.10242): 0 where they agree."""
    return (_unit(z) - _unit(other)).square().sum(dim=1).mean()


def uniformity(z: Any) -> Any:
    """ln of the mean of exp(-2 d^2) over pairs on the unit sphere (2005.10242): 0 where all events are one point."""
    import torch

    squared = torch.pdist(_unit(z)).square()
    return torch.logsumexp(-2 * squared, dim=0) - torch.log(torch.tensor(float(len(squared))))


def covariance_spectrum(z: Any) -> Any:
    """Eigenvalues of the covariance of z (B, D) as parts of their sum, falling, (D,); all in the first where none varies."""
    import torch

    found = torch.linalg.eigvalsh(torch.atleast_2d(torch.cov(z.T))).flip(0).clamp(min=0.0)
    only = torch.zeros_like(found)
    only[0] = 1.0
    return found / found.sum() if float(found.sum()) > 0 else only


def effective_rank(z: Any) -> Any:
    """exp of the entropy of `covariance_spectrum`: 1 where all events lie on a line, D where no direction is special."""
    import torch

    return torch.special.entr(covariance_spectrum(z)).sum().exp()
