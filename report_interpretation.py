"""The report's parts on what the score follows, what its space knows and the oddest events, drawn from interpretation.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .analysis.event_objects import placed_objects, region_image, slots_of, unit_step
from .analysis.interpretation import Followed, Probe
from .analysis.plots_displays import (
    EventDisplay,
    EventImage,
    EventNumbers,
    plot_displays,
    plot_images,
    plot_quantiles,
)
from .analysis.plots_interpretation import (
    RankMatrix,
    SpaceMap,
    plot_followed,
    plot_map,
    plot_matrix,
    plot_probes,
    plot_space_spectrum,
)
from .analysis.report import ReportFigure, ReportPart, ReportTable
from .interpreting import FILE
from .stages import Search
from .workspace import read_json

#: Features that a table or a figure of plain numbers has room for, and rows of the matrix.
ROOM = 16
#: Numbers of an event in the table of displayed ones.
COLUMNS = 12
#: Rank correlations below this are called none.
WEAK = 0.1


def _nan(value: Any) -> Any:
    """JSON's null as NaN, lists within lists."""
    if isinstance(value, list):
        return [_nan(v) for v in value]
    return math.nan if value is None else value


def _array(value: Any) -> np.ndarray:
    return np.array(_nan(value), dtype=np.float64)


def _named(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name


def _rows(made: Mapping[str, Any]) -> list[Followed]:
    return [Followed(**{k: _nan(v) for k, v in r.items()}) for r in made["follows"]]


def _weighed(made: Mapping[str, Any]) -> str:
    n, effective = made["events"], made["effective_events"]
    return "" if abs(effective - n) < 0.5 else f", which say as much as {effective:,.0f} of equal weight"


def _drawn(made: Mapping[str, Any]) -> str:
    return (
        ". Weighted events were drawn as their weights ask, as a sample without weights would hold them"
        if made["weighted"]
        else ""
    )


def _follows_part(made: Mapping[str, Any], label: str) -> ReportPart:
    """What the score follows, and what a linear function of its space knows."""
    rows, space = _rows(made), made["space"]
    ranked = sorted((r for r in rows if np.isfinite(r.rho)), key=lambda r: -abs(r.rho))
    first = ""
    if ranked:
        told = (
            "Most of all it follows"
            if abs(ranked[0].rho) >= WEAK
            else "It follows nothing in order; the largest is"
        )
        first = f" {told} {ranked[0].name} ({ranked[0].rho:+.2f})."
    figures = [ReportFigure(
        "follows", plot_followed(rows, label=label),
        "Left: Spearman's rank correlation with the score, 68 % intervals. Right: where the events of highest score lie in the "
        "distribution of all events (dot: median; bar: central 68 %).", made["follows"], wide=True,
    )]  # fmt: skip
    if space.get("probes"):
        probes = [Probe(**{k: _nan(v) for k, v in p.items()}) for p in space["probes"]]
        what = f"the latent space of {space['name']}" if space["learnt"] else "the features"
        figures.append(ReportFigure(
            "probes", plot_probes(probes, label=label),
            f"Linear probes of {what}: fitted on one half of the events, judged on the other (halves by identity); 68 % bootstrap intervals.",
            space["probes"],
        ))  # fmt: skip
    return ReportPart(
        "What the score follows",
        f"Of {made['total']:,} events ({made['told']}) {made['events']:,} are looked at{_weighed(made)}, chosen by their "
        f"identities.{first} A score that follows one number alone says little more than that number; one that follows none in "
        "order may still be high at special values, which the right panel shows.",
        figures=figures,
    )


def _space_part(made: Mapping[str, Any], label: str) -> ReportPart | None:
    """A map of the score's space; of a learnt one also its spectrum, and its coordinates against the observables."""
    space = made["space"]
    if "map" not in space:
        return None
    shares, raw = space["shares"], space["map"]
    drawn = SpaceMap(
        _array(raw["x"]), _array(raw["y"]), (shares[0], shares[1] if len(shares) > 1 else 0.0), _array(raw["score"]),
        raw["observable"], _array(raw["values"]), _array(raw["odd"]).reshape(-1, 2), [e["number"] for e in made["oddest"]],
    )  # fmt: skip
    figures = [ReportFigure(
        "space-map", plot_map(drawn, label=label),
        "Each point an event on the two principal axes of largest variance; crosses: the oddest events, by their numbers. Far out "
        "an axis may be logarithmic.",
        {**raw, "shares": shares, "axes": space["axes"], "columns": space["axes_of"]}, wide=True,
    )]  # fmt: skip
    if space["learnt"]:
        figures += _latent_figures(space, label)
        which = (
            (" of fold 0", " (every fold has a space of its own)") if space.get("folded", True) else ("", "")
        )
        text = (
            f"The representation {space['name']}{which[0]} with {space['events']:,} events that it has not seen{which[1]}: "
            f"{len(space['columns'])} coordinates, of which {space['effective_rank']:.3g} are used "
            "(exp of the spectrum's entropy)."
        )
    else:
        what = (
            "The features"
            if space["name"] in ("Identity", made["features"])
            else f"The features by {space['name']}"
        )
        how = (
            ", each divided by its standard deviation"
            if space["standardised"]
            else ", energies alone, as ln(1 + pT)"
        )
        text = f"{what}{how}: {_axis_words(space)}."
    return ReportPart("A map of the events", text, figures=figures)


def _axis_words(space: Mapping[str, Any]) -> str:
    """The features with the largest part in each of the first two axes."""
    out = []
    for i, axis in enumerate(space["axes"], start=1):
        order = np.argsort(-np.abs(np.array(axis)), kind="stable")[:4]
        out.append(
            f"axis {i} is most of all " + ", ".join(f"{axis[j]:+.2f} {space['axes_of'][j]}" for j in order)
        )
    return "; ".join(out)


def _latent_figures(space: Mapping[str, Any], label: str) -> list[ReportFigure]:
    matrix = _array(space["matrix"])
    strength = np.nan_to_num(np.abs(matrix[space["shown"]])).max(axis=0, initial=0.0)
    best = np.sort(np.argsort(-strength, kind="stable")[: 2 * ROOM])
    shown = RankMatrix(
        [space["columns"][i] for i in space["shown"]], [space["observables"][j] for j in best],
        matrix[np.ix_(space["shown"], best)],
    )  # fmt: skip
    fewer = (
        ""
        if len(space["shown"]) == len(matrix)
        else f" The {len(space['shown'])} coordinates of largest variance."
    )
    numbers = {"columns": space["columns"], "observables": space["observables"], "rho": space["matrix"]}
    return [
        ReportFigure(
            "space-matrix", plot_matrix(shown, label=label),
            f"Rank correlation of latent coordinates with observables.{fewer}", numbers,
        ),
        ReportFigure(
            "space-spectrum", plot_space_spectrum(space["shares"], space["effective_rank"], label=label),
            "Spectrum of the latent space's covariance.", {"shares": space["shares"], "effective_rank": space["effective_rank"]},
        ),
    ]  # fmt: skip


def _title(event: Mapping[str, Any]) -> str:
    return f"run {event['run']}, lumi {event['luminosityBlock']}, event {event['event']}"


def _of_kind(made: Mapping[str, Any], *kinds: str) -> list[str]:
    return [n for n, k in made["kinds"].items() if k in kinds]


def _lines(made: Mapping[str, Any], event: Mapping[str, Any]) -> list[str]:
    """Numbers beside a display: the score, and the mass and what is carried."""
    out = [f"score {event['score']:.4g}"]
    for name in _of_kind(made, "mass", "carried")[:3]:
        value, unit = event["values"][name], made["units"][name]
        if value is not None:
            out.append(f"{name} {value:.4g} {unit}".strip())
    return out


def _features(made: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, float]:
    return {n: _nan(event["values"][n]) for n in _of_kind(made, "feature")}


def _display(made: Mapping[str, Any], label: str) -> ReportFigure:
    """The figure of the oddest events that their columns allow."""
    events, kind = made["oddest"], made["kind"]
    if kind == "regions":
        step = unit_step(made["units"][_of_kind(made, "feature")[0]])
        images = [EventImage(e["number"], _title(e), region_image(_features(made, e), step)) for e in events]
        return ReportFigure(
            "oddest",
            plot_images(images, label=label),
            "The calorimeter images of the oddest events, transverse energy.",
            wide=True,
        )
    if kind == "numbers":
        names = _of_kind(made, "feature", "mass", "carried")[:ROOM]
        lines = [
            EventNumbers(e["number"], _title(e), _array([e["quantiles"][n] for n in names]).tolist())
            for e in events
        ]
        return ReportFigure(
            "oddest",
            plot_quantiles(names, lines, label=label),
            "Where the oddest events lie in every number.",
        )
    shown = [
        EventDisplay(e["number"], _title(e), _lines(made, e), placed_objects(_features(made, e)))
        for e in events
    ]
    what = "constituents about the jet axis" if kind == "constituents" else "objects"
    return ReportFigure(
        "oddest", plot_displays(shown, label=label),
        f"The {what} of the oddest events: areas of markers in proportion to pT, missing energy a dashed line at its phi.", wide=True,
    )  # fmt: skip


def _cell(event: Mapping[str, Any], name: str) -> str:
    value, place = event["values"][name], event["quantiles"][name]
    return "–" if value is None else f"{value:.4g} ({100 * _nan(place):.3g}%)"


def _oddest_part(made: Mapping[str, Any], label: str) -> ReportPart | None:
    """Displays of the oddest events, and who they are."""
    events = made["oddest"]
    if not events:
        return None
    slots = slots_of(_of_kind(made, "feature"))
    told = (
        _of_kind(made, "mass", "carried", "derived")
        if slots or made["kind"] == "regions"
        else _of_kind(made, "feature", "mass", "carried", "derived")
    )
    own = [("run", "run"), ("lumi", "luminosityBlock"), ("event", "event"), ("file", "file")]
    rows = [[head, *(str(e[key]) or "unknown" for e in events)] for head, key in own]
    rows += [["weight", *(e["weight"] for e in events)]] if made["weighted"] else []
    rows += [["score", *(e["score"] for e in events)]]
    rows += [[_named(n, made["units"][n]), *(_cell(e, n) for e in events)] for n in told[:COLUMNS]]
    return ReportPart(
        "Displays of the oddest events",
        f"The {len(events)} events of largest score ({made['told']}{made['where']}), none of them seen by the model that scored "
        f"it{_drawn(made)}. In brackets the part of the data with a lower value. Truth is not used; the file says where an event comes from.",
        figures=[_display(made, label)],
        tables=[ReportTable(["", *(str(e["number"]) for e in events)], rows)],
    )


def interpretation_parts(search: Search) -> Sequence[ReportPart]:
    """The parts of interpretation.json; none where the search does not ask for it."""
    if search.config.interpretation is None:
        return ()
    made, label = read_json(search.space.path(FILE)), search.config.report.label
    if "why" in made:
        return [ReportPart("What the score follows", f"Not looked at: {made['why']}.")]
    parts = [_follows_part(made, label), _space_part(made, label), _oddest_part(made, label)]
    return [p for p in parts if p is not None]
