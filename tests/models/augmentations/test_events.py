"""Views of events keep what they promise: invariants, widths, momenta, acceptance, empty slots."""

import math

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError
from elsewhere.models.augmentations import events as views
from elsewhere.models.augmentations.events import ACCEPTANCE, JET, LEPTON, MET, MUON, SOFTEST
from elsewhere.models.augmentations.objects import Objects, wrapped

KINDS = torch.tensor([MET] + [LEPTON] * 4 + [MUON] * 4 + [JET] * 10)


def seeded(seed=1):
    return torch.Generator().manual_seed(seed)


def sample(n=2000, seed=0, fill=0.5):
    rng = np.random.default_rng(seed)
    pt = rng.exponential(40.0, (n, 19)) + 16
    eta = rng.uniform(-2.0, 2.0, (n, 19)) * (KINDS.numpy() != MET)
    phi = rng.uniform(-np.pi, np.pi, (n, 19))
    there = rng.random((n, 19)) < fill
    there[:, 0] = True
    return Objects.of(torch.tensor(np.stack([pt * there, eta * there, phi * there], axis=2)))


def empty_slots_are_zero(objects):
    return all(bool((v[~objects.there] == 0).all()) for v in (objects.pt, objects.eta, objects.phi))


def visible(objects):
    return objects.kept(objects.there & (KINDS != MET))


VIEWS = {
    "rotated": views.rotated,
    "direction_smeared": lambda e, g: views.direction_smeared(e, KINDS, g),
    "jets_smeared": lambda e, g: views.jets_smeared(e, KINDS, g),
    "physical": lambda e, g: views.physical(e, KINDS, g),
    "added": lambda e, g: views.added(e, KINDS, g),
    "split": lambda e, g: views.split(e, KINDS, g),
    "shifted": lambda e, g: views.shifted(e, KINDS, g),
    "anomalous": lambda e, g: views.anomalous(e, KINDS, g),
}


@pytest.mark.parametrize("name", VIEWS)
def test_every_view(name):
    before = sample()
    table = before.table().clone()
    after = VIEWS[name](before, seeded())
    assert torch.equal(before.table(), table)  # the input is not touched
    assert empty_slots_are_zero(after)
    assert bool((after.phi >= -math.pi).all() & (after.phi < math.pi).all())
    assert bool((after.pt[after.there] > 0).all())
    assert not torch.equal(after.table(), table)
    assert torch.equal(VIEWS[name](before, seeded()).table(), after.table())
    assert not torch.equal(VIEWS[name](before, seeded(2)).table(), after.table())
    for n in (0, 1):
        few = Objects(*(getattr(before, k)[:n] for k in ("pt", "eta", "phi", "there")))
        assert VIEWS[name](few, seeded()).table().shape == (n, 19, 3)


def test_angles_wrap():
    phi = torch.tensor([math.pi, -math.pi, 3.5, -3.5, 7.0, 0.1, -1e-17], dtype=torch.float64)
    out = wrapped(phi)
    assert bool(((out >= -math.pi) & (out < math.pi)).all())
    torch.testing.assert_close(torch.sin(out), torch.sin(phi), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.cos(out), torch.cos(phi), atol=1e-12, rtol=0)


def test_rotation_leaves_pt_eta_angles_between_objects_and_masses():
    before = sample()
    after = views.rotated(before, seeded())
    assert torch.equal(after.pt, before.pt)
    assert torch.equal(after.eta, before.eta)
    assert torch.equal(after.there, before.there)
    for i, j in ((0, 5), (1, 10), (9, 18)):
        both = before.there[:, i] & before.there[:, j]
        turns = [wrapped(o.phi[:, i] - o.phi[:, j])[both] for o in (before, after)]
        torch.testing.assert_close(torch.cos(turns[0]), torch.cos(turns[1]), atol=1e-9, rtol=0)
        mass = [
            2
            * (
                o.pt[:, i]
                * o.pt[:, j]
                * (torch.cosh(o.eta[:, i] - o.eta[:, j]) - torch.cos(o.phi[:, i] - o.phi[:, j]))
            )[both]
            for o in (before, after)
        ]
        torch.testing.assert_close(mass[0], mass[1], rtol=1e-9, atol=1e-6)
    angle = wrapped(after.phi[:, 0] - before.phi[:, 0])
    assert angle.abs().mean().item() == pytest.approx(math.pi / 2, abs=0.1)


@pytest.mark.parametrize(("pt", "wanted"), [(20.0, 0.028), (25.0, 0.014), (30.0, 0.0)])
def test_directions_are_smeared_below_25_gev(pt, wanted):
    n = 20_000
    table = torch.zeros(n, 19, 3, dtype=torch.float64)
    table[:, [0, 1, 5, 9], 0] = pt
    before = Objects.of(table)
    after = views.direction_smeared(before, KINDS, seeded())
    for slot in (1, 5, 9):
        assert after.eta[:, slot].std().item() == pytest.approx(wanted, rel=0.03, abs=1e-9)
        assert after.phi[:, slot].std().item() == pytest.approx(wanted, rel=0.03, abs=1e-9)
    assert torch.equal(after.eta[:, 0], before.eta[:, 0])


@pytest.mark.parametrize("pt", [50.0, 300.0])
def test_jets_are_smeared_by_their_resolution(pt):
    table = torch.zeros(20_000, 19, 3, dtype=torch.float64)
    table[:, [0, 1, 5, 9], 0] = pt
    after = views.jets_smeared(Objects.of(table), KINDS, seeded())
    wanted = math.sqrt((0.05 * pt) ** 2 + 1.5**2 * pt)
    assert after.pt[:, 9].std().item() == pytest.approx(wanted, rel=0.03)
    assert after.pt[:, 9].mean().item() == pytest.approx(pt, abs=4 * wanted / math.sqrt(20_000))
    assert bool((after.pt[:, [0, 1, 5]] == pt).all())


def test_objects_outside_acceptance_are_removed():
    before = sample(10)
    eta = before.eta.clone()
    eta[:, 1], eta[:, 5], eta[:, 9] = 3.1, -2.2, 4.1
    eta[:, 2], eta[:, 6], eta[:, 10] = 2.9, -2.0, 3.9
    after = views.accepted(before.changed(eta=eta), KINDS)
    assert not after.there[:, [1, 5, 9]].any()
    assert torch.equal(after.there[:, [2, 6, 10]], before.there[:, [2, 6, 10]])
    assert after.there[:, 0].all()


def test_added_objects_recoil_against_met_and_old_ones_stay():
    before = sample()
    after = views.added(before, KINDS, seeded())
    for k in ("pt", "eta", "phi"):
        old = before.there & (KINDS != MET)
        assert torch.equal(getattr(after, k)[old], getattr(before, k)[old])
    new = after.there & ~before.there
    assert bool(new.any(dim=1).all())
    torch.testing.assert_close(
        torch.stack(after.momentum()), torch.stack(before.momentum()), atol=1e-8, rtol=0
    )
    most = before.pt.amax(dim=1, keepdim=True).expand_as(before.pt)
    for kind, limit in ACCEPTANCE.items():
        mine = new & (kind == KINDS)
        assert bool((after.eta[mine].abs() <= limit).all())
        assert after.eta[mine].std().item() == pytest.approx(limit / math.sqrt(3), rel=0.06)
        assert bool((after.pt[mine] >= SOFTEST[kind]).all())
        assert bool((after.pt[mine] <= torch.clamp(most[mine], min=SOFTEST[kind])).all())
        free = (~before.there & (kind == KINDS)).sum(dim=1)
        share = mine.sum(dim=1).double()[free > 0] / free[free > 0]
        assert share.mean().item() == pytest.approx(0.5, abs=0.04)


def test_a_full_event_gets_nothing_more():
    full = sample(20, fill=1.1)
    assert torch.equal(views.added(full, KINDS, seeded()).pt[:, 1:], full.pt[:, 1:])
    assert torch.equal(views.split(full, KINDS, seeded()).table(), full.table())


def test_splits_keep_momentum_and_kind_and_make_objects():
    before = sample()
    after = views.split(before, KINDS, seeded())
    for kind in (LEPTON, MUON, JET):
        pairs = [o.kept(o.there & (kind == KINDS)) for o in (before, after)]
        torch.testing.assert_close(pairs[1].pt.sum(dim=1), pairs[0].pt.sum(dim=1), rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(
            torch.stack(pairs[1].momentum()), torch.stack(pairs[0].momentum()), atol=1e-8, rtol=0
        )
        assert bool((pairs[1].pt[pairs[1].there] >= SOFTEST[kind] - 1e-9).all())
    assert torch.equal(after.table()[:, 0], before.table()[:, 0])
    assert after.there.sum() > before.there.sum() * 1.2
    assert bool((after.there | ~before.there).all())


def test_shifts_scale_met_or_objects_or_both():
    before = sample()
    after = views.shifted(before, KINDS, seeded())
    ratio = torch.where(before.there, after.pt / before.pt.clamp(min=1e-9), torch.nan)
    met, rest = ratio[:, 0], torch.nanmean(ratio[:, 1:], dim=1)
    alone, objects = rest == 1, met == 1
    both = (met - rest).abs() < 1e-9
    for share in (alone, objects & ~alone, both & ~alone & ~objects):
        assert share.double().mean().item() == pytest.approx(1 / 3, abs=0.04)
    assert 0.5 <= met.min() < 0.6
    assert 4.9 < met.max() <= 5.0
    assert rest.min() >= 1
    assert 4.9 < rest.max() <= 5.0


def test_anomalous_views_are_of_the_modes_that_were_asked_for():
    before = sample()
    more = views.anomalous(before, KINDS, seeded(), modes=("add",))
    assert more.there.sum() > before.there.sum()
    with pytest.raises(ConfigError, match="expected at least one of add, split, shift"):
        views.anomalous(before, KINDS, seeded(), modes=("remove",))
    with pytest.raises(ConfigError, match="found"):
        views.anomalous(before, KINDS, seeded(), modes=())
