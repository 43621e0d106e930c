"""Figures of limits and studies draw what they are given, without a warning, and leave matplotlib as it was."""

import functools

import matplotlib as mpl
import matplotlib.pyplot
import numpy as np
import pytest
from elsewhere.analysis import plots_limits as pl
from elsewhere.analysis import plots_studies as ps
from elsewhere.analysis.likelihood import BinnedModel
from elsewhere.analysis.metrics import roc
from elsewhere.analysis.plots_common import to_svg
from elsewhere.analysis.scan_metrics import band
from elsewhere.analysis.self_consistent import Reach, fit_efficiency, self_consistent_limit
from elsewhere.events import Window
from scipy import stats

METHODS = ("Supervised", "IAD", "CATHODE", "CWoLa", "ANODE", "R-ANODE", "SALAD", "Autoencoder")


@functools.cache
def limit():
    rng, sigma = np.random.default_rng(1), np.array([0, 1, 2, 2.5, 3, 3.5, 4, 5, 7, 9.0])
    eps = 0.002 + 0.3 / (1 + np.exp(-(sigma[:, None] - 3.5) / 0.6)) * rng.normal(1, 0.12, (10, 8))
    return self_consistent_limit(
        BinnedModel.counting(100, 10), [104], fit_efficiency(sigma, eps, seed=1), 100.0, points=5
    )


def mass_limits(beyond=True):
    mass = np.arange(2000.0, 6001.0, 400.0)
    median = 20 * np.exp(-(mass - 2000) / 1200)
    expected = median * np.array([0.53, 0.72, 1.0, 1.4, 1.9])[:, None]
    observed = median * np.random.default_rng(2).normal(1.05, 0.25, len(mass))
    if beyond:
        observed[-1] = expected[3:, -2:] = np.inf
    return pl.LimitCurve(mass, observed, expected, (("W' model", 60 * np.exp(-(mass - 2000) / 700)),))


def p_scan(name="", depth=4.2):
    mass = np.arange(2500.0, 5001.0, 100.0)
    z = depth * np.exp(-(((mass - 3500) / 150) ** 2)) + 0.4 * np.sin(mass / 180)
    local = stats.norm.sf(z)
    wide = np.minimum(1.0, local * 30)
    return pl.PScan(name, mass, local, wide, wide / 1.4, np.minimum(1.0, wide * 1.4))


def injections(name="CATHODE", scale=1.0):
    s_over_b = np.array([0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]) / 100
    mean = scale * 14 * s_over_b * 100 / (1 + np.exp(-(s_over_b * 100 - 0.35) / 0.1))
    z = mean[:, None] + np.random.default_rng(3).normal(0, 1, (7, 12))
    return pl.InjectionScan(name, s_over_b, z, s_over_b * np.sqrt(120_000))


def injection_rows():
    return [
        ps.InjectionRow(x, x + 2 * k, 80.0, 0.05 * k - 0.1, 0.97 + 0.02 * k, 500, k)
        for k, x in enumerate((0, 80, 160, 240, 400))
    ]


TWO = (Window(3300, 3700), Window(3400, 3600))


def stability(windows=TWO):
    rng = np.random.default_rng(4)
    return [
        ps.StabilityCell(
            order, binning, window, np.nan if order == 4 and binning == "fine" else 3.4 + rng.normal(0, 0.4),
            0.02 if order == 2 else 0.4, nominal=(order, binning, window) == (3, "CMS", windows[0]),
        )
        for order in (2, 3, 4) for binning in ("CMS", "50 GeV", "100 GeV", "fine") for window in windows
    ]  # fmt: skip


def importances(n=6):
    names = ["m_J1", "Delta m_J", "tau21_J1", "tau21_J2", "dR_JJ", "noise"] + [
        f"extra_{i}" for i in range(30)
    ]
    return [ps.Importance(names[i], 4.0 / (i + 1) - 0.6 * (i == 5) - 0.1, 0.3) for i in range(n)]


@functools.cache
def bands(kind, n=8):
    rng = np.random.default_rng(5)
    s, b = rng.normal(0, 1, 3000), rng.normal(0, 1, 40_000)
    shifts = np.linspace(3.0, 0.6, n)
    return tuple(
        band(METHODS[i], [roc(s + shift + d, b) for d in rng.normal(0, 0.12, 10)], kind)
        for i, shift in enumerate(shifts)
    )


FIGURES = {
    "limit_mass": lambda: pl.plot_limit_mass(mass_limits(), right="100 fb$^{-1}$ (13 TeV)"),
    "limit_sigma": lambda: pl.plot_limit_sigma(
        limit(), [Reach(3.0, 3.4, 3.2, 3.6), Reach(5.0, 4.1, 3.9, 4.4)]
    ),
    "p_scan": lambda: pl.plot_p_scan([p_scan()], right="100 fb$^{-1}$ (13 TeV)"),
    "p_scan_two": lambda: pl.plot_p_scan([p_scan("CATHODE"), p_scan("CWoLa", 2.5)]),
    "significance": lambda: pl.plot_significance(
        [injections(), injections("CWoLa", 0.6), injections("IAD", 1.2)]
    ),
    "injection": lambda: ps.plot_injection(injection_rows()),
    "stability": lambda: ps.plot_stability(stability(), right="CATHODE"),
    "stability_one": lambda: ps.plot_stability(stability((Window(3300, 3700),))),
    "importance": lambda: ps.plot_importance(importances()),
    "importance_many": lambda: ps.plot_importance(importances(36)),
    "bands_sic": lambda: ps.plot_bands(bands("sic")),
    "bands_rejection": lambda: ps.plot_bands(bands("rejection")),
    "bands_few": lambda: ps.plot_bands(bands("sic")[:3]),
}


@pytest.mark.parametrize("name", list(FIGURES))
def test_figure_draws_without_warning_and_leaves_no_state(name):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    assert "<svg" in to_svg(figure, name)
    assert dict(mpl.rcParams) == before
    assert mpl.pyplot.get_fignums() == []


def lines(figure, panel=0):
    return {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[panel].lines}


def test_the_limit_against_mass_draws_its_numbers_and_leaves_gaps():
    curve = mass_limits()
    drawn = lines(pl.plot_limit_mass(curve))
    np.testing.assert_array_equal(drawn["observed"][:-1], curve.observed[:-1])
    assert np.isnan(drawn["observed"][-1])
    np.testing.assert_array_equal(drawn["expected"], curve.expected[2])
    np.testing.assert_array_equal(drawn["W' model"], curve.theory[0][1])
    assert len(drawn["no observed limit"]) == 1
    assert "no observed limit" not in lines(pl.plot_limit_mass(mass_limits(beyond=False)))


def test_the_limit_against_the_cross_section_marks_both_limits():
    found = limit()
    figure = pl.plot_limit_sigma(found)
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert found.observed in marks
    assert found.naive in marks
    np.testing.assert_array_equal(lines(figure)["observed"], found.observed_cls)
    np.testing.assert_array_equal(lines(figure, 1)["isotonic fit"], found.efficiency.value)
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert any("not valid" in name for name in names)


def test_p_values_local_and_global_are_drawn():
    one = p_scan()
    drawn = lines(pl.plot_p_scan([one]))
    np.testing.assert_array_equal(drawn["local"], one.p_local)
    np.testing.assert_array_equal(drawn["global"], one.p_global)


def test_significance_is_the_median_of_the_injections():
    one = injections()
    figure = pl.plot_significance([one])
    np.testing.assert_allclose(lines(figure)["CATHODE"], np.median(one.z, axis=1))


def test_the_injection_table_and_figure_agree():
    rows = injection_rows()
    table = ps.injection_table(rows)
    assert len(table[0]) == len(ps.injection_columns())
    assert table[1][:3] == ("80", "82", "80")
    assert table[1][3] == "-0.05 ± 0.04"
    assert table[1][-2:] == (500, 1)
    points = ps.plot_injection(rows).axes[0].containers[1].lines[0]
    np.testing.assert_array_equal(points.get_ydata(), [r.found for r in rows])


def test_stability_writes_every_z_and_brackets_bad_fits():
    cells = stability((Window(3300, 3700),))
    texts = [t.get_text() for t in ps.plot_stability(cells).axes[0].texts]
    for c in cells:
        want = "–" if np.isnan(c.z) else (f"({c.z:.2f})" if c.gof_p < 0.05 else f"{c.z:.2f}")
        assert want in texts
    assert len(ps.plot_stability(cells).axes[0].patches) == 1


def test_importance_is_ranked_and_says_what_it_leaves_out():
    ax = ps.plot_importance(importances(36)).axes[0]
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels[0] == "m_J1"
    assert len(labels) == 20
    assert "16 smaller ones" in ax.get_xlabel()


def test_bands_draw_their_medians():
    figure = ps.plot_bands(bands("sic"))
    line = figure.axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), bands("sic")[0].median)
    assert "max" in line.get_label()
