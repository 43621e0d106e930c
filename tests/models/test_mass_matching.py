"""Matched spectra against histograms, the statistical floor, and a classifier that is shown nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from elsewhere.analysis.sculpting import sculpting
from elsewhere.errors import FeatureError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.mass_matching import MassMatching, match_masses
from elsewhere.models.scores.weak_trees import WeakTrees
from scipy.stats import rankdata

FEATURES = FeatureSet("jets", (Column("size", "", ""), Column("two", "", "")), Column("m", "GeV", "mass"))


def jets(kind, n, seed, first=0):
    """A falling spectrum, or a peak on a plateau; the column "two" is 2 higher for the W."""
    rng = np.random.default_rng([seed, len(kind), ord(kind[0])])
    centre, width = {"w": (80, 8), "top": (172, 12)}.get(kind, (0, 0))
    peak = np.where(rng.random(n) < 0.5, rng.normal(centre, width, n), rng.uniform(40, 240, n))
    mass = 40 + rng.exponential(50, n) if kind == "qcd" else peak
    x = np.column_stack([mass / 40, rng.normal(2 * (kind == "w"), 1, n)]).astype(np.float32)
    identity = np.zeros(n, dtype=IDENTITY)
    identity["event"] = first + np.arange(n)
    return Events(x, mass, np.ones(n), identity, FEATURES)


def auc(signal, background):
    ranks = rankdata(np.concatenate([signal, background]))[: len(signal)]
    return (ranks.sum() - len(signal) * (len(signal) + 1) / 2) / len(signal) / len(background)


def spectra(samples, edges):
    return [np.histogram(e.mass, edges, weights=e.weight)[0] for e in samples.values()]


@pytest.mark.parametrize("how", ["draw", "weights"])
def test_matched_spectra_agree(how):
    given = {k: jets(k, 20_000, 3) for k in ("qcd", "w", "top")}
    for k, e in given.items():  # events of unlike weight
        given[k] = replace(e, weight=np.random.default_rng(len(k)).uniform(1, 5, len(e)))
    matched = match_masses(given, MassMatching(10.0, how=how), seed=4)
    edges = np.arange(0, 400, 10.0)
    there = spectra(matched.samples, edges)
    scaled = {k: replace(e, weight=e.weight / e.weight.mean()) for k, e in given.items()}
    least = np.min(spectra(scaled, edges), axis=0)
    used = np.isin(edges[:-1], matched.low[:, 0])
    for found in there:
        assert np.allclose(found, np.where(used, least, 0), rtol=1e-9)
    counts = np.array([np.histogram(e.mass, edges)[0] for e in given.values()])
    assert np.array_equal(used, (counts >= 10).all(axis=0))
    assert 15 <= used.sum() < 38
    kept = [len(e) for e in matched.samples.values()]
    if how == "weights":
        for name, e in matched.samples.items():
            assert e.weight.max() <= scaled[name].weight.max() + 1e-9  # lowered, never raised
    else:
        assert max(kept) < 0.7 * 20_000
        ratios = [e.weight.std() / e.weight.mean() for e in matched.samples.values()]
        assert max(ratios) < 0.5  # drawn: no event stands for many


def test_unweighted_draws_are_counts_at_the_statistical_floor():
    given = {k: jets(k, 20_000, 3) for k in ("qcd", "w", "top")}
    matched = match_masses(given, MassMatching(5.0))
    assert all(np.allclose(e.weight, 1, rtol=1e-12) for e in matched.samples.values())
    edges = np.arange(42.5, 230, 5.0)  # not those of the matching
    for other in ("w", "top"):
        before = sculpting(*(np.histogram(given[k].mass, edges)[0] for k in ("qcd", other)), 0)
        after = sculpting(*(np.histogram(matched.samples[k].mass, edges)[0] for k in ("qcd", other)), 0)
        assert before.jsd > 20 * before.floor_high
        assert after.jsd < after.floor_high
        assert after.p_value > 0.01
    again = match_masses({k: e.take(slice(None, None, -1)) for k, e in given.items()}, MassMatching(5.0))
    for name, e in again.samples.items():
        assert np.array_equal(e.identity, matched.samples[name].identity)
    assert not np.array_equal(
        match_masses(given, MassMatching(5.0), seed=1).samples["qcd"].identity,
        matched.samples["qcd"].identity,
    )


def test_a_classifier_of_the_matched_mass_learns_nothing():
    given = {k: jets(k, 40_000, 3, first=10**6 * i) for i, k in enumerate(("qcd", "w", "top"))}

    def of_mass(samples):
        alone = FeatureSet("mass", (Column("mass", "GeV", ""),), FEATURES.mass)
        e = Events.concatenate(samples)
        return replace(e, x=e.mass[:, None].astype(np.float32), features=alone)

    def learnt(samples):
        halves = [
            (of_mass([samples["qcd"].take(h)]), of_mass([samples[k].take(h) for k in ("w", "top")]))
            for h in (slice(0, None, 2), slice(1, None, 2))
        ]
        trees = WeakTrees(members=1, rounds=30, min_rounds=5).fit(*halves[0])
        return auc(*(trees.score(e) for e in halves[1][::-1]))

    # Inside a bin the spectra still differ; these are narrower than the peaks.
    assert learnt(match_masses(given, MassMatching(5.0)).samples) == pytest.approx(0.5, abs=0.01)
    assert learnt(given) > 0.7


def test_the_mass_and_another_column_are_matched_together():
    given = {k: jets(k, 20_000, 3) for k in ("qcd", "w")}
    how = MassMatching(20.0, column="two", column_width=0.5)
    matched = match_masses(given, how)
    assert matched.low.shape[1] == 2
    means = [(e.x[:, 1].mean(), e.mass.mean()) for e in matched.samples.values()]
    assert np.allclose(means[0], means[1], atol=[0.06, 2], rtol=0)  # bins have widths
    assert abs(given["qcd"].x[:, 1].mean() - given["w"].x[:, 1].mean()) > 1.5
    with pytest.raises(FeatureError, match=r"qcd has no column 'pt'; there are: size, two"):
        match_masses(given, MassMatching(column="pt"))


def test_the_mass_and_the_momentum_of_constituents_are_matched_together():
    columns = tuple(Column(f"Cand{i}_{part}", "", "") for i in range(2) for part in ("pt", "eta", "phi"))
    features = FeatureSet("constituents", columns, Column("m_J", "GeV", "mass"))

    def pairs(n, seed, hard):
        rng = np.random.default_rng(seed)
        pt, phi = rng.exponential(hard, (n, 2)) + 300, rng.normal(0, 0.3, (n, 2))
        x = np.stack([pt, rng.normal(0, 0.3, (n, 2)), phi], axis=2).reshape(n, -1).astype(np.float32)
        sums = pt * np.exp(1j * phi)
        identity = np.zeros(n, dtype=IDENTITY)
        identity["event"] = np.arange(n)
        return Events(x, rng.normal(80, 5, n), np.ones(n), identity, features), np.abs(sums.sum(axis=1))

    given = {"soft": pairs(4000, 1, 50), "hard": pairs(4000, 2, 150)}
    events = {name: e for name, (e, _) in given.items()}
    matched = match_masses(events, MassMatching(20.0, column="pt_J", column_width=25.0)).samples
    momenta = []
    for name, e in matched.items():
        assert np.array_equal(np.sort(e.identity["event"]), np.unique(e.identity["event"]))
        momenta.append(given[name][1][e.identity["event"].astype(int)])
    assert given["hard"][1].mean() - given["soft"][1].mean() > 100
    assert momenta[0].mean() == pytest.approx(momenta[1].mean(), abs=3)
    spectra = [np.histogram(p, np.arange(600, 1200, 25))[0] for p in momenta]
    assert np.allclose(*spectra, atol=1)  # at an edge, float32 may put an event on the other side
    with pytest.raises(FeatureError, match=r"soft has no column 'pt'; there are: Cand0_pt"):
        match_masses(events, MassMatching(column="pt"))
