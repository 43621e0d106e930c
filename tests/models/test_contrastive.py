"""Contrastive losses: numbers worked out by hand, a slow reference written from the formulas, and what must not matter."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from elsewhere.models.networks.contrastive import (
    alignment,
    anomclr,
    anomclr_plus,
    clr,
    covariance_spectrum,
    darkclr,
    effective_rank,
    nt_xent,
    supcon,
    uniformity,
)

Z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PHYSICAL = torch.tensor([[0.8, 0.6], [-0.6, 0.8]])
ANOMALOUS = torch.tensor([[0.6, 0.8], [0.8, 0.6]])


def draws(n=6, d=5, seed=1, views=3):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, d, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(views)
    ]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def slow_pairs(z, other, tau, positive):
    rows, n, total = [*z, *other], len(z), 0.0
    for i, row in enumerate(rows):
        twin = (i + n) % (2 * n)
        others = [j for j in range(2 * n) if j != i and (positive or j != twin)]
        total -= cosine(row, rows[twin]) / tau - math.log(
            sum(math.exp(cosine(row, rows[j]) / tau) for j in others)
        )
    return total / (2 * n)


def slow_supcon(z, labels, tau, anchors):
    rows = [(v[k], label, k) for k in range(len(z[0])) for v, label in zip(z, labels, strict=True)]
    out = []
    for i, (row, label, view) in enumerate(rows):
        if anchors == "one" and view > 0:
            continue
        others = [j for j in range(len(rows)) if j != i]
        same = [j for j in others if rows[j][1] == label]
        below = math.log(sum(math.exp(cosine(row, rows[j][0]) / tau) for j in others))
        out.append(-sum(cosine(row, rows[j][0]) / tau - below for j in same) / max(1, len(same)))
    return sum(out) / len(out)


def test_golden_numbers():
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-0.6, 0.8]])[:, None, :]
    assert float(supcon(z, torch.tensor([0, 0, 1, 1]), tau=0.5)) == pytest.approx(0.430190, abs=1e-5)
    assert float(nt_xent(Z, PHYSICAL)) == pytest.approx(0.063780, abs=1e-5)
    assert float(clr(Z, PHYSICAL)) == pytest.approx(-4.997524, abs=1e-5)
    assert float(anomclr(Z, PHYSICAL, ANOMALOUS)) == pytest.approx(1.002476, abs=1e-5)
    assert float(anomclr_plus(Z, PHYSICAL, ANOMALOUS)) == pytest.approx(-2.0, abs=1e-5)


def test_pairwise_losses_are_their_formulas():
    z, physical, anomalous = draws()
    a, b, c = (v.tolist() for v in (z, physical, anomalous))
    far, near = (np.mean([cosine(x, y) for x, y in zip(a, o, strict=True)]) for o in (c, b))
    assert nt_xent(z, physical, tau=0.3).item() == pytest.approx(slow_pairs(a, b, 0.3, True), abs=1e-12)
    assert clr(z, physical, tau=0.3).item() == pytest.approx(slow_pairs(a, b, 0.3, False), abs=1e-12)
    wanted = slow_pairs(a, b, 0.3, False) + far / 0.3
    assert anomclr(z, physical, anomalous, tau=0.3).item() == pytest.approx(wanted, abs=1e-12)
    assert anomclr_plus(z, physical, anomalous, tau=0.3).item() == pytest.approx(
        (far - near) / 0.3, abs=1e-12
    )
    size = np.mean([math.hypot(*x) for x in a])
    wanted = (far - near) / 0.3 + 0.01 * size
    assert darkclr(z, physical, anomalous, tau=0.3, size=0.01).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("anchors", ["all", "one"])
def test_supcon_is_its_formula(anchors):
    z = torch.stack(draws(7, 4, views=2), dim=1)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    wanted = slow_supcon(z.tolist(), labels.tolist(), 0.2, anchors)
    assert supcon(z, labels, tau=0.2, anchors=anchors).item() == pytest.approx(wanted, abs=1e-12)
    wanted = slow_supcon(z.tolist(), list(range(7)), 0.2, anchors)
    assert supcon(z, tau=0.2, anchors=anchors).item() == pytest.approx(wanted, abs=1e-12)


def test_simclr_with_two_views_is_nt_xent():
    z, physical = draws(views=2)
    two = supcon(torch.stack([z, physical], dim=1), tau=0.1)
    assert two.item() == pytest.approx(nt_xent(z, physical, tau=0.1).item(), abs=1e-12)


LOSSES = {
    "nt_xent": (nt_xent, 2), "clr": (clr, 2), "anomclr": (anomclr, 3), "anomclr_plus": (anomclr_plus, 3), "darkclr": (darkclr, 3),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_what_does_not_matter(name):
    loss, views = LOSSES[name]
    z = draws(4, 3, views=views)
    assert torch.autograd.gradcheck(partial(loss, tau=0.5), z)
    order = torch.tensor([2, 0, 3, 1])
    assert loss(*(v[order] for v in z)).item() == pytest.approx(loss(*z).item(), abs=1e-12)
    if name != "darkclr":  # which asks for short embeddings
        assert loss(*(3 * v for v in z)).item() == pytest.approx(loss(*z).item(), abs=1e-12)
    long = [v.float() * 1e3 for v in z]
    assert torch.isfinite(loss(*long, tau=1e-3))  # exp(1000) is not
    with pytest.raises(ValueError, match="expected views of one shape"):
        loss(z[0], *(v[:2] for v in z[1:]))


def test_supcon_gradient_single_events_and_absent_positives():
    z = torch.stack(draws(4, 3, views=2), dim=1)
    assert torch.autograd.gradcheck(lambda v: supcon(v, torch.tensor([0, 1, 1, 2]), tau=0.5), (z,))
    alone = torch.randn(4, 1, 3, requires_grad=True, generator=torch.Generator().manual_seed(0))
    loss = supcon(alone, torch.arange(4))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(alone.grad, torch.zeros_like(alone))
    alone.grad = None
    one = supcon(alone[:1], torch.tensor([0]))
    one.backward()
    assert one.item() == 0.0
    assert torch.equal(alone.grad, torch.zeros_like(alone))
    with pytest.raises(ValueError, match=r"expected \(B, V, D\) and \(B,\)"):
        supcon(alone[:, 0], torch.arange(4))


@pytest.mark.parametrize("loss", [clr, anomclr])
def test_one_event_without_negatives_is_refused(loss):
    with pytest.raises(ValueError, match="one event has no negatives"):
        loss(*(Z[:1],) * (3 if loss is anomclr else 2))
    assert nt_xent(Z[:1], PHYSICAL[:1]).item() == pytest.approx(0.0, abs=1e-6)


def test_alignment_and_uniformity():
    assert float(alignment(Z, 5 * Z)) == pytest.approx(0.0, abs=1e-6)
    assert float(alignment(Z, -Z)) == pytest.approx(4.0)
    assert float(uniformity(Z)) == pytest.approx(-4.0)  # one pair at distance sqrt(2)
    assert float(uniformity(torch.ones(5, 3))) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("name", LOSSES)
def test_a_gpu_gives_the_same(name):
    loss, views = LOSSES[name]
    z = [v.detach().float() for v in draws(64, 8, views=views)]
    assert loss(*(v.cuda() for v in z)).item() == pytest.approx(loss(*z).item(), abs=1e-5)


def test_the_spectrum_is_that_of_the_covariance():
    z = draws(200, 4, 7)[0].detach() @ torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.0], dtype=torch.float64)) + 5
    away = z.numpy() - z.numpy().mean(axis=0)
    values = np.sort(np.linalg.svd(away)[1] ** 2)[::-1]
    share = values / values.sum()
    np.testing.assert_allclose(covariance_spectrum(z).numpy(), share, atol=1e-12)
    entropy = -sum(p * math.log(p) for p in share if p > 1e-15)
    assert float(effective_rank(z)) == pytest.approx(math.exp(entropy), rel=1e-9)


def test_the_effective_rank_counts_directions():
    line = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None] * torch.tensor([1.0, -2.0, 0.5])
    assert float(effective_rank(line)) == pytest.approx(1.0, abs=1e-9)
    assert float(effective_rank(torch.ones(50, 3))) == 1.0
    assert float(effective_rank(line[:, :1])) == pytest.approx(1.0)
    corners = torch.cat([torch.eye(5, dtype=torch.float64), -torch.eye(5, dtype=torch.float64)])
    assert float(effective_rank(corners)) == pytest.approx(5.0)
    assert float(effective_rank(100 * corners + 3)) == pytest.approx(5.0)
