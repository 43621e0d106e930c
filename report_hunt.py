"""The report's groups for a resonance hunt: one per variant, drawn from hunt.json and the scored columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .analysis.plots import (
    EfficiencyCurve,
    FeatureOverlay,
    GlobalP,
    Overlay,
    ScanCurve,
    SculptedShape,
    Spectrum,
    WindowRow,
    plot_delta_sys,
    plot_features,
    plot_roc,
    plot_scan,
    plot_scores,
    plot_sculpting,
    plot_sic,
    plot_spectra,
    window_columns,
    window_table,
)
from .analysis.report import ReportFigure, ReportPart, ReportSearch, ReportTable
from .events import Window
from .hunting import summary, words
from .report_training import training_part
from .resonance import SEARCH, Sample, held_out_signal, model_name, sample
from .stages import Search
from .workspace import read_json


def _window(raw: dict[str, float]) -> Window:
    return Window(raw["low"], raw["high"])


def _spectrum(edges: np.ndarray, r: dict[str, Any], what: str) -> Spectrum:
    return Spectrum(
        what, edges, np.array(r["counts"]), _window(r["window"]), np.array(r["expected"]), np.array(r["error"]),
        2 * r["half_deviance"], r["ndf"], r["gof_p"], r["order"] + 1 if r["order"] else None,
    )  # fmt: skip


#: What the line in the spectra is.
_BACKGROUNDS = {
    "dijet": "Poisson fits of the dijet function, integrated over each bin; the signal region is masked in the fit, and the "
    "number of parameters is chosen by likelihood ratio.",
    "gaussian_process": "A Gaussian process for the logarithm of the rate, on a parabola, with the signal region masked; its "
    "amplitude is chosen by the evidence.",
    "abcd": "After a cut: the events that fail it, times the passing share outside the signal region. Without a cut: a "
    "Poisson fit of the dijet function, the signal region masked.",
}

#: What local Z is where the statistic is a fit.
_FITTED = (
    "Z is that of a Gaussian signal on the dijet function, fitted to the whole spectrum after the window's cut at the mass of the window "
    "where it is most significant; n and b are the window's count and masked fit, which measure delta_sys. "
)


def _guarded(found: dict[str, Any]) -> str:
    """What is masked beside the signal region."""
    return f" {found['guard']:g} GeV to either side of it are masked as well." if found["guard"] else ""


def percent(cut: float) -> str:
    """A cut in words."""
    return "no cut" if cut >= 1 else f"cut {100 * cut:g}%"


def _spectra_part(found: dict[str, Any], label: str) -> ReportPart:
    edges = np.array(found["edges"])
    best, before = found["best"], found["before"]
    pair = [_spectrum(edges, before, "before the cut")]
    if best["cut"] < 1:
        pair.append(_spectrum(edges, best, f"after the {percent(best['cut'])}"))
    return ReportPart(
        "Spectrum",
        f"{_BACKGROUNDS[found['background']]}{_guarded(found)} chi2 is the Poisson deviance of the bins that are not masked.",
        figures=[
            ReportFigure(
                "spectra", plot_spectra(pair, label=label), "Data, fit and pulls in the window of the largest excess.",
                {"before": before, "after": best}, wide=True,
            )
        ],
    )  # fmt: skip


def _overall(found: dict[str, Any]) -> GlobalP:
    o = found["overall"]
    z_high = o["z_high"] if o["z_high"] is not None else float("inf")
    return GlobalP(o["p"], o["p_low"], o["p_high"], o["z"], o["z_low"], z_high, o["toys"], o["bound"])


def _scan_part(found: dict[str, Any], label: str) -> ReportPart:
    cuts = list(dict.fromkeys(r["cut"] for r in found["results"]))
    curves = []
    for cut in sorted(cuts, reverse=True):
        mine = [r for r in found["results"] if r["cut"] == cut]
        mass = np.array([_window(r["window"]).centre for r in mine])
        curves.append(ScanCurve(percent(cut), mass, np.array([r["p_local"] for r in mine])))
    rows = [
        WindowRow(
            _window(r["window"]),
            r["cut"],
            int(r["n"]),
            r["b"] * (1 + r["delta"]),
            r["b_error"],
            r["delta"],
            r["z"],
        )
        for r in found["results"]
    ]
    columns, entries = window_columns(), window_table(rows)
    if found["statistic"] == "fit":
        columns = (*columns, "mass [GeV]", "signal")
        more = [(f"{r['mass']:g}", f"{r['signal']:.1f} ± {r['signal_error']:.1f}") for r in found["results"]]
        entries = [(*entry, *fitted) for entry, fitted in zip(entries, more, strict=True)]
    o = found["overall"]
    return ReportPart(
        "Scan",
        f"Local p-values of every window and cut with delta_sys inside, and the global one: {o['exceeding']:,} of "
        f"{o['toys']:,} toys, which repeat the scan over all windows and cuts with every fit, reach the largest local Z "
        f"of {o['z_max']:.2f}; {o['failed']} toys had a failed fit and count as reaching it. Gross-Vitells beside it: "
        f"{o['gross_vitells']:.2g}. {_FITTED if found['statistic'] == 'fit' else ''}delta_sys is the bias of the windows that overlap neither this one nor the one of largest excess.",
        figures=[
            ReportFigure("scan", plot_scan(curves, _overall(found), label=label), "Local p-value against mass.", o),
            ReportFigure(
                "delta_sys", plot_delta_sys([r for r in rows if r.cut < 1] or rows, label=label),
                "The classifier's bias, measured on the other windows.",
            ),
        ],
        tables=[
            ReportTable(columns, entries, "b includes delta_sys."),
            *([_bump_table(found["bumphunter"])] if found.get("bumphunter") else []),
        ],
        warnings=found["failed"],
    )  # fmt: skip


def _bump_table(found: list[dict[str, Any]]) -> ReportTable:
    rows = [
        (percent(b["cut"]), f"{b['low']:g}-{b['high']:g}", round(b["n"]), round(b["b"], 1), round(b["t"], 2),
         f"{'< ' if b['bound'] else ''}{b['p_high'] if b['bound'] else b['p_global']:.2g}")
        for b in found
    ]  # fmt: skip
    return ReportTable(
        ("spectrum", "bump [GeV]", "seen", "expected", "t", "global p"),
        rows,
        "BumpHunter on the best window's spectra, on dijet fits with nothing masked; toys are fitted again, order included. Its p "
        "counts every interval of one spectrum, not that the window and the cut were chosen.",
    )


def _limits_part(search: Search, variant: str) -> ReportPart:
    made = read_json(search.space.path("limits.json"))[variant]
    rows = [
        (
            f"{one['window']['low']:g}-{one['window']['high']:g}", percent(one["cut"]), round(one["observed"], 1),
            round(one["expected"][2], 1), f"{one['expected'][1]:.1f} to {one['expected'][3]:.1f}",
        )
        for one in made["limits"]
    ]  # fmt: skip
    columns = ("window [GeV]", "cut", "observed", "expected", "68 % of background-only data")
    return ReportPart(
        "Limits",
        "95 % CLs upper limits on the number of signal events in the window that pass the cut, delta_sys inside. They are limits on "
        "events, not on a cross section: the efficiency of a classifier that learns from the data depends on the signal that is in "
        "them. The likelihood of the best window is in the folder exports (pyhf, combine, HEPData, UHI).",
        tables=[ReportTable(columns, rows, "Signal events.")],
        warnings=[
            f"{one['window']['low']:g}-{one['window']['high']:g} GeV, {percent(one['cut'])}: no limit, {one['why']}"
            for one in made["missing"]
        ],
    )


def _separation_part(found: dict[str, Any], label: str) -> ReportPart | None:
    if "roc" not in found:
        return None
    r, s = found["roc"], found["sic"]
    signal, background, n = (np.array(r[k]) for k in ("signal", "background", "n_background"))
    sigma = np.sqrt(np.maximum(background * (1 - background), 1e-12) / r["n_background_total"])
    curve = EfficiencyCurve(
        "held-out signal, best window",
        signal,
        background,
        n,
        r["auc"],
        r["auc_error"],
        background - sigma,
        background + sigma,
    )
    return ReportPart(
        "Separation",
        f"Signal events that were not injected against the data's background in the best window: AUC {r['auc']:.3f} +- "
        f"{r['auc_error']:.3f}; largest significance improvement {s['best']:.2f} +- {s['best_error']:.2f} at a background "
        f"efficiency of {s['at']:.2g} (at least {s['floor']} background events). Simulation only: nothing in the search used it.",
        figures=[
            ReportFigure("roc", plot_roc([curve], label=label), "Band: statistics of the background.", r),
            ReportFigure("sic", plot_sic([curve], s["floor"], label=label), "Significance improvement.", s),
        ],
    )


def _scores_part(search: Search, found: dict[str, Any], data: Sample, variant: str, label: str) -> ReportPart:
    window = _window(found["best"]["window"])
    name = model_name(variant, window)
    events, score = data.table.events, data.table.scores[name]
    inside = window.contains(events.mass)
    edges = np.linspace(float(score.min()), float(score.max()) + 1e-9, 41)
    overlays = [
        Overlay.of("data, signal region", score[inside], edges, "data"),
        Overlay.of("data, elsewhere", score[~inside], edges, "background").scaled(
            inside.sum() / max(1, (~inside).sum())
        ),
    ]
    signal = held_out_signal(search.space, search.config)
    if signal is not None and len(signal):
        mine = signal.scores[name][window.contains(signal.events.mass)]
        overlays.append(
            Overlay.of("signal (100 events)", mine, edges, "signal").scaled(100 / max(1, len(mine)))
        )
    figures = [
        ReportFigure(
            "scores",
            plot_scores(edges, overlays, x_label="anomaly score", label=label),
            "Each event scored by the fold that did not see it.",
        ),
        ReportFigure(
            "features",
            plot_features(_features(events, inside, signal, window), label=label),
            "What the score looks at.",
            wide=True,
        ),
    ]
    sculpted = _sculpted(found, label)
    return ReportPart("Scores and features", figures=[*figures, *([sculpted] if sculpted else [])])


def _features(events: Any, inside: np.ndarray, signal: Any, window: Window) -> list[FeatureOverlay]:
    out = []
    for i, column in enumerate(events.features.columns):
        x = events.x[:, i]
        low, high = (float(v) for v in np.quantile(x, [0.001, 0.999]))
        edges = np.linspace(low, high, 31)
        overlays = [
            Overlay.of("data, signal region", x[inside], edges, "data"),
            Overlay.of("data, elsewhere", x[~inside], edges, "background").scaled(
                inside.sum() / max(1, (~inside).sum())
            ),
        ]
        if signal is not None and len(signal):
            mine = signal.events.x[window.contains(signal.events.mass), i]
            overlays.append(
                Overlay.of("signal, same area", mine, edges, "signal").scaled(
                    inside.sum() / max(1, len(mine))
                )
            )
        unit = f" [{column.unit}]" if column.unit else ""
        out.append(FeatureOverlay(f"{column.name}{unit}", edges, overlays))
    return out


def _sculpted(found: dict[str, Any], label: str) -> ReportFigure | None:
    s, best, before = found.get("sculpting"), found["best"], found["before"]
    if s is None:
        return None
    counts = np.array(best["counts"])
    shape = SculptedShape(best["cut"], counts, counts, s["jsd"], s["floor"])
    figure = plot_sculpting(np.array(found["edges"]), np.array(before["counts"]), [shape], label=label)
    text = (
        f"Mass shape before and after the cut. Outside the window JSD = {s['jsd']:.3g} bits; without any sculpting "
        f"{s['floor']:.3g} on average and below {s['floor_high']:.3g} in 95 % of toys; chi2/ndf = {s['chi2']:.0f}/{s['ndf']}."
    )
    return ReportFigure("sculpting", figure, text, s)


def hunt_searches(search: Search, shared: Sequence[ReportPart]) -> list[ReportSearch]:
    """One group per variant; the common parts go with the first."""
    out = []
    title, label = search.config.report.title or search.config.name, search.config.report.label
    for variant, found in read_json(search.space.path("hunt.json")).items():
        data = sample(search.space, search.config, variant, "scores")
        quoted, verdict = words(found)
        lines = summary(found)
        biased = [] if found["overall"] is None or found["validity"]["valid"] else [lines.pop(0)]
        nothing = verdict == "nothing found"
        injected = int(data.is_signal.sum())
        asked = f"Is there a resonance in {len(data.table):,} events"
        asked += (
            f", {injected} of them injected signal?"
            if injected
            else "?"
            if variant == SEARCH
            else ", nothing injected?"
        )
        if found["overall"] is None:
            out.append(ReportSearch(
                title if variant == SEARCH else f"{title}: control without injected signal",
                asked, "There was nothing to fit.", f"{quoted}: {verdict}", "nothing", facts=[], warnings=[],
                parts=list(shared if variant == SEARCH else ()), numbers={"hunt": found},
            ))  # fmt: skip
            continue
        parts = [
            _spectra_part(found, label), _scan_part(found, label), _limits_part(search, variant),
            _separation_part(found, label) if injected else None,
            _scores_part(search, found, data, variant, label),
            training_part(
                search.space.path("models", model_name(variant, _window(found["best"]["window"]))), label
            ),
            *(shared if variant == SEARCH else ()),
        ]  # fmt: skip
        peak = found["peak"]
        mass = f"{peak['position']:.0f} +- {found['peak_error']:.0f} GeV" if peak else "no positive peak"
        out.append(
            ReportSearch(
                title if variant == SEARCH else f"{title}: control without injected signal",
                asked, " ".join(f"{t[0].upper()}{t[1:]}." for t in lines[1:3]), f"{verdict}; {quoted}",
                "nothing" if nothing else "excess",
                facts=[("local Z", f"{found['best']['z']:.2f}"), ("before the cut", f"{found['before']['z']:.2f}"), ("mass", mass)],
                warnings=[*biased, *found["failed"]], parts=parts, numbers={"hunt": found},
            )
        )  # fmt: skip
    return out
