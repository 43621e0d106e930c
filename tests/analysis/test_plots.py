import matplotlib as mpl
import matplotlib.pyplot
import numpy as np
import pytest
from elsewhere.analysis import plots as pl
from elsewhere.events import Window
from scipy import stats

RNG = np.random.default_rng(5)
EDGES = np.arange(2500.0, 6501.0, 100.0)
FIT = 8000 * np.exp(-np.arange(40) / 5.0)


def fake_spectrum(title="before the cut", scale=1.0, failed=False):
    counts = np.random.default_rng(1).poisson(FIT * scale)
    if failed:
        return pl.Spectrum(title, EDGES, counts, Window(3300, 3700))
    fit = FIT * scale
    return pl.Spectrum(title, EDGES, counts, Window(3300, 3700), fit, 0.05 * fit, 33.1, 32, 0.41, 3)


def fake_rows():
    return [
        pl.WindowRow(Window(c - 200, c + 200), cut, 120, 100.0, 6.0, 0.02 + c / 1e6, 1.5)
        for cut in (0.01, 0.003)
        for c in np.arange(2900.0, 4501.0, 200.0)
    ]


def fake_scan():
    mass = np.arange(2900.0, 4501.0, 200.0)
    p = np.full(9, 0.3)
    p[3] = 1e-6
    return [pl.ScanCurve("no cut", mass, np.full(9, 0.4)), pl.ScanCurve("0.3%", mass, p)]


def fake_curves():
    s = np.linspace(0.01, 1, 100)
    b = s**4
    return [pl.EfficiencyCurve("weak", s, b, b * 1e5, 0.91, 0.004, 0.8 * b, 1.2 * b)]


def fake_rates(name="float", shift=0.0):
    t = np.linspace(0, 10, 50)
    r = 2.8e4 * np.exp(-t - shift)
    return pl.RateLine(name, t, r, 0.9 * r, 1.1 * r)


def fake_signal():
    t = np.linspace(0, 10, 50)
    e = stats.norm.sf(t, 5, 2)
    return pl.EfficiencyLine("top pairs", t, e, e * 0.97, np.minimum(1, e * 1.03))


def fake_overlays(edges):
    g = np.random.default_rng(2)
    return [
        pl.Overlay.of("reference", g.normal(0, 1, 20000), edges, "background"),
        pl.Overlay.of("data", g.normal(0, 1, 20000), edges, "data"),
        pl.Overlay.of("signal", g.normal(2, 1, 300), edges, "signal"),
    ]


def fake_flows():
    def steps(n):
        return [
            pl.CutflowStep("read", n, n * 1.0),
            pl.CutflowStep("two jets", n // 2, n * 0.45),
            pl.CutflowStep("leading pT > 1200 GeV", n // 5, n * 0.2),
        ]

    return {"qcd": steps(100000), "wprime": steps(5000)}


def fake_figures():
    e = np.linspace(-4, 5, 46)
    soft = RNG.gamma(2, 3, 5000)
    shape = [pl.SculptedShape(0.01, FIT * 0.01, FIT * 0.01, 2e-3, 1.4e-3)]
    feature = pl.FeatureOverlay("m_J1 [GeV]", e, fake_overlays(e))
    curve = pl.TrainingCurve(
        "member", np.exp(-np.arange(20) / 5), np.exp(-np.arange(20) / 6), [1e-3] * 20, [4e4] * 20
    )
    return {
        "spectra": lambda: pl.plot_spectra([fake_spectrum(), fake_spectrum("after the cut 0.3%", 0.01)]),
        "failed": lambda: pl.plot_spectra([fake_spectrum(failed=True)]),
        "scan": lambda: pl.plot_scan(
            fake_scan(), pl.GlobalP(2.5e-5, 0, 9.2e-5, 4.05, 3.74, np.inf, 40000, True)
        ),
        "delta_sys": lambda: pl.plot_delta_sys(fake_rows()),
        "scores": lambda: pl.plot_scores(e, fake_overlays(e), {"1%": 2.3, "0.3%": 2.8}),
        "features": lambda: pl.plot_features([feature] * 4),
        "cutflow": lambda: pl.plot_cutflow(fake_flows()),
        "training": lambda: pl.plot_training([curve]),
        "roc": lambda: pl.plot_roc(fake_curves()),
        "sic": lambda: pl.plot_sic(fake_curves()),
        "sculpting": lambda: pl.plot_sculpting(EDGES, FIT, shape),
        "rates": lambda: pl.plot_rates(
            [fake_rates(), fake_rates("firmware", 0.02)], (1.0, 10.0), [fake_signal()]
        ),
        "firmware": lambda: pl.plot_firmware(soft, soft + RNG.normal(0, 0.01, 5000)),
    }


@pytest.mark.parametrize("name", list(fake_figures()))
def test_figure_draws_without_warning_and_leaves_no_state(name):
    before = dict(mpl.rcParams)
    figure = fake_figures()[name]()
    assert "<svg" in pl.to_svg(figure, name)
    assert dict(mpl.rcParams) == before
    assert mpl.pyplot.get_fignums() == []


def test_scan_draws_the_numbers_given():
    ax = pl.plot_scan(fake_scan()).axes[0]
    line = next(one for one in ax.lines if one.get_label() == "0.3%")
    np.testing.assert_array_equal(line.get_ydata(), fake_scan()[1].p_local)
    assert any(np.allclose(one.get_ydata(), stats.norm.sf(5)) for one in ax.lines)


def test_bound_is_shown_as_a_bound():
    p, z = pl.GlobalP(2.5e-5, 0, 9.2e-5, 4.05, 3.74, np.inf, 40000, True).words
    assert p.startswith("p <")
    assert z.startswith("Z >")


def test_sic_stops_at_the_floor():
    line = pl.plot_sic(fake_curves()).axes[0].lines[0]
    c = fake_curves()[0]
    assert line.get_xdata().min() == c.signal[c.n_background >= 25].min()
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata() / line.get_xdata() ** 2)


def test_rates_draw_the_numbers_given():
    line = pl.plot_rates([fake_rates()]).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), fake_rates().khz)


def test_garwood_known_interval():
    np.testing.assert_allclose(pl.garwood([0, 1])[:, 1], [1 - 0.1727, 3.2996 - 1], atol=2e-3)
    assert pl.garwood([0])[1, 0] == pytest.approx(1.841, abs=2e-3)


def test_pulls_are_the_signed_deviance():
    s = fake_spectrum()
    n, b = s.counts[0], s.fit[0]
    assert s.pulls[0] == pytest.approx((n - b) / np.sqrt(b), rel=0.02)


def test_more_curves_than_colours_are_told_apart():
    from elsewhere.analysis.plots_common import curve_style

    styles = [curve_style(i) for i in range(30)]
    assert len({(s["color"], s["ls"]) for s in styles}) == 30
    edges = np.linspace(-4, 5, 46)
    g = np.random.default_rng(2)
    signals = [pl.Overlay.of(f"signal {i}", g.normal(0.2 * i, 1, 300), edges, "signal") for i in range(9)]
    figure = pl.plot_scores(edges, [*fake_overlays(edges), *signals])
    drawn = {
        (str(p.get_edgecolor()), str(p.get_linestyle())) for p in figure.axes[0].patches if p.get_label()
    }
    assert len(drawn) >= 9
