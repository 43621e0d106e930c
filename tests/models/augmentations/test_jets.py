"""Views of jets keep momentum, centroid, shape and padding, and lose what they should."""

import math

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.models.augmentations import jets as views
from elsewhere.models.augmentations.objects import Objects


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def sample(n=3000, slots=30, seed=0, most=20):
    rng = np.random.default_rng(seed)
    there = np.arange(slots) < rng.integers(1, most + 1, (n, 1))
    pt = -np.sort(-rng.exponential(10.0, (n, slots)) - 0.5, axis=1)
    eta, phi = rng.normal(0, 0.2, (2, n, slots))
    return Objects.of(torch.tensor(np.stack([pt * there, eta * there, phi * there], axis=2)))


def centroid(jets):
    total = jets.pt.sum(dim=1)
    return (jets.pt * jets.eta).sum(dim=1) / total, (jets.pt * jets.phi).sum(dim=1) / total


VIEWS = {
    "rotated": views.rotated, "position_smeared": views.position_smeared, "split": views.split,
    "translated": views.translated, "dropped": views.dropped,
}  # fmt: skip


@pytest.mark.parametrize("name", VIEWS)
def test_every_view(name):
    before = sample()
    table = before.table().clone()
    after = VIEWS[name](before, seeded())
    assert torch.equal(before.table(), table)
    for column in (after.pt, after.eta, after.phi):
        assert bool((column[~after.there] == 0).all())
    torch.testing.assert_close(after.pt.sum(dim=1), before.pt.sum(dim=1), rtol=1e-5, atol=0)
    assert torch.equal(VIEWS[name](before, seeded()).table(), after.table())
    assert not torch.equal(VIEWS[name](before, seeded(2)).table(), after.table())
    assert not torch.equal(after.table(), table)
    junk = Objects(before.pt, before.eta, before.phi, before.there)
    for n in (0, 1):
        few = Objects(*(getattr(junk, k)[:n] for k in ("pt", "eta", "phi", "there")))
        assert VIEWS[name](few, seeded()).table().shape == (n, 30, 3)


def test_centring_is_of_each_jet():
    jets = sample()
    moved = views.centred(jets.changed(eta=jets.eta + torch.arange(len(jets.pt))[:, None] % 2))
    for c in centroid(moved):
        torch.testing.assert_close(c, torch.zeros_like(c), atol=1e-9, rtol=0)


def test_rotation_keeps_distances_and_turns_uniformly():
    before = views.centred(sample())
    after = views.rotated(before, seeded())
    torch.testing.assert_close(
        torch.hypot(after.eta, after.phi), torch.hypot(before.eta, before.phi), atol=1e-9, rtol=0
    )
    assert torch.equal(after.pt, before.pt)
    turn = torch.atan2(after.phi[:, 0], after.eta[:, 0]) - torch.atan2(before.phi[:, 0], before.eta[:, 0])
    several = before.there.sum(dim=1) > 2
    assert torch.cos(turn[several]).mean().abs() < 0.06
    assert torch.cos(turn[several]).square().mean().item() == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize(("pt", "wanted"), [(0.01, 1.0), (1.0, 0.1), (20.0, 0.005)])
def test_soft_constituents_move_by_the_stated_width(pt, wanted):
    table = torch.zeros(20_000, 2, 3, dtype=torch.float64)
    table[:, 0, 0] = pt
    after = views.position_smeared(Objects.of(table), seeded())
    assert after.eta[:, 0].std().item() == pytest.approx(wanted, rel=0.03)
    assert bool((after.eta[:, 1] == 0).all())


def test_splits_are_collinear_and_keep_every_direction_s_momentum():
    before = sample(300)
    after = views.split(before, seeded())
    assert bool((after.there.sum(dim=1) > before.there.sum(dim=1)).all())
    assert bool((after.there.sum(dim=1) <= 4 * before.there.sum(dim=1)).all())
    for jet in range(50):
        pieces: dict[tuple[float, float], float] = {}
        for i in after.there[jet].nonzero()[:, 0].tolist():
            where = (after.eta[jet, i].item(), after.phi[jet, i].item())
            pieces[where] = pieces.get(where, 0.0) + after.pt[jet, i].item()
        wanted = {
            (before.eta[jet, i].item(), before.phi[jet, i].item()): before.pt[jet, i].item()
            for i in before.there[jet].nonzero()[:, 0].tolist()
        }
        assert pieces == pytest.approx(wanted)


def test_a_pass_splits_a_constituent_once_and_fills_no_more_than_there_is_room():
    full = sample(50, slots=10, most=9)
    one = views.split(full, seeded(), passes=1)
    wanted = torch.minimum(2 * full.there.sum(dim=1), torch.tensor(10))
    assert torch.equal(one.there.sum(dim=1), wanted)


def test_translations_move_a_jet_as_a_whole_and_stay_in_the_detector():
    before = sample().changed(phi=sample().phi + 2.9)
    after = views.translated(before, seeded())
    moved = torch.where(before.there, after.eta - before.eta, torch.nan)
    spread = torch.nan_to_num(moved, -math.inf, posinf=0).amax(dim=1) - torch.nan_to_num(
        moved, math.inf
    ).amin(dim=1)
    assert bool((spread.abs() < 1e-9).all())
    big = torch.full_like(before.eta, math.inf)
    extent = torch.where(before.there, before.eta, -big).amax(dim=1) - torch.where(
        before.there, before.eta, big
    ).amin(dim=1)
    assert bool((torch.nan_to_num(moved, 0.0).abs().amax(dim=1) <= extent + 1e-9).all())


def test_dropping_is_binomial_and_keeps_the_jet_pt_and_centre():
    before = sample(20_000)
    after = views.dropped(before, seeded(), p=0.3)
    torch.testing.assert_close(after.pt.sum(dim=1), before.pt.sum(dim=1), rtol=1e-5, atol=0)
    for c in centroid(after):
        torch.testing.assert_close(c, torch.zeros_like(c), atol=1e-9, rtol=0)
    n = before.there.sum(dim=1)
    for many in (10, 20):
        left = after.there.sum(dim=1)[n == many].double()
        assert left.mean().item() == pytest.approx(0.7 * many, abs=4 * math.sqrt(0.21 * many / len(left)))
        assert left.var().item() == pytest.approx(0.21 * many, rel=0.15)
    assert bool((after.there.sum(dim=1) > 0).all())
    assert bool((after.there <= before.there).all())


def test_a_jet_of_one_keeps_it_and_impossible_probabilities_are_refused():
    lone = sample(500, most=1)
    after = views.dropped(lone, seeded(), p=0.99)
    assert torch.equal(after.pt, lone.pt)
    with pytest.raises(ConfigError, match="below 1"):
        views.dropped(lone, seeded(), p=1.0)


def test_jetclr_moves_one_view_more_than_the_other():
    before = sample(2000)
    one, other = views.symmetric_views(before, seeded())
    assert torch.equal(one.pt, before.pt)
    assert bool((other.there.sum(dim=1) > before.there.sum(dim=1)).all())
    torch.testing.assert_close(other.pt.sum(dim=1), before.pt.sum(dim=1), rtol=1e-5, atol=0)

    def radius(jets):
        jets = views.centred(jets)
        return (jets.pt * torch.hypot(jets.eta, jets.phi)).sum(dim=1) / jets.pt.sum(dim=1)

    torch.testing.assert_close(radius(one), radius(before), rtol=1e-5, atol=1e-9)
    assert (radius(other) - radius(before)).abs().median() > 1e-3
    for view in (one, other):
        assert all(c.std() > 0.2 for c in centroid(view))


def test_darkclr_shares_one_rotation_and_loses_half():
    before = sample(4000)
    one, near, far = views.dark_views(before, seeded(), 0.5)
    torch.testing.assert_close(far.pt.sum(dim=1), before.pt.sum(dim=1), rtol=1e-5, atol=0)
    assert torch.equal(near.pt, one.pt)
    assert bool((far.there <= one.there).all())
    n = before.there.sum(dim=1)
    left = far.there.sum(dim=1)[n == 16].double()
    assert left.mean().item() == pytest.approx(8, abs=4 * 2 / math.sqrt(len(left)))
    # without their centroids: what is left of the third lies where it lay in the first, in the second nothing does
    kept = views.centred(one.kept(far.there).changed(pt=far.pt))
    torch.testing.assert_close(views.centred(far).eta, kept.eta, atol=1e-9, rtol=0)
    several = n > 2
    turn = torch.atan2(views.centred(near).phi[:, 0], views.centred(near).eta[:, 0])
    turn = turn - torch.atan2(views.centred(one).phi[:, 0], views.centred(one).eta[:, 0])
    assert torch.cos(turn[several]).mean().abs() < 0.06
    # where a jet lies tells nothing: all three are moved as far
    spread = [c.std().item() for view in (one, near, far) for c in centroid(view)]
    assert min(spread) > 0.7 * max(spread)
