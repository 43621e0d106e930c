"""The report page: one self-contained HTML file that may hold several searches, and report.json with every number on it."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..workspace import atomic, write_json
from .plots_common import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: How a search's verdict is coloured: nothing found, an excess, a measurement, or a result that must not be quoted.
Tone = Literal["nothing", "excess", "measured", "failed"]


@dataclass(frozen=True)
class ReportFigure:
    """A figure, what is seen on it, and the numbers it was drawn from (a result dataclass or anything JSON knows)."""

    name: str
    figure: Figure
    caption: str
    numbers: Any = None
    wide: bool = False


@dataclass(frozen=True)
class ReportTable:
    """A table; cells may be text or numbers, NaN and None are shown as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class ReportPart:
    """One heading of a search: plain words, warnings, figures, tables, verbatim text. ``folded`` starts collapsed."""

    title: str
    text: str = ""
    figures: Sequence[ReportFigure] = ()
    tables: Sequence[ReportTable] = ()
    code: str = ""
    warnings: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class ReportSearch:
    """A group of parts with its box in the summary: what was asked, what was found, and a few facts (name, value).

    ``warnings`` (INCOMPLETE, failed fits) stand above everything else of the search; parts that are None are absent.
    """

    title: str
    asked: str
    found: str
    verdict: str
    tone: Tone = "measured"
    facts: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    parts: Sequence[ReportPart | None] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: dataclasses and NamedTuples as dictionaries, arrays as lists, NaN and infinity as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()  # type: ignore[attr-defined]
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def show(value: Any) -> str:
    """A table cell: whole numbers with thin spaces between thousands, four significant digits otherwise, a dash for none."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or (
        isinstance(value, float) and value.is_integer() and 1e3 <= abs(value) < 1e15
    ):
        return f"{int(value):,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def slug(text: str) -> str:
    """``text`` as an HTML anchor."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float, np.integer, np.floating)) or (
        isinstance(cell, str) and bool(re.match(r"^[<>≤≥≈~]?\s*[-+−]?\d", cell))
    )


def _figure(figure: ReportFigure, anchor: str) -> dict[str, Any]:
    image = base64.b64encode(to_svg(figure.figure, anchor).encode()).decode()
    width = figure.figure.get_figwidth()
    return {
        "name": figure.name,
        "caption": figure.caption,
        "image": image,
        "wide": figure.wide or width > 8,
        "max_width": round(width * 90),
    }


def _table(table: ReportTable) -> dict[str, Any]:
    rows = [[show(cell) for cell in row] for row in table.rows]
    shown = range(len(table.columns))
    right = [bool(rows) and all(_is_number(r[i]) or show(r[i]) == "–" for r in table.rows) for i in shown]
    return {"columns": table.columns, "rows": rows, "right": right, "caption": table.caption}


def _part(part: ReportPart, anchor: str) -> dict[str, Any]:
    return {
        "title": part.title,
        "anchor": anchor,
        "paragraphs": [p for p in part.text.split("\n\n") if p.strip()],
        "figures": [_figure(f, f"{anchor}-{slug(f.name)}") for f in part.figures],
        "tables": [_table(t) for t in part.tables],
        "code": part.code,
        "warnings": part.warnings,
        "folded": part.folded,
    }


def _unique(title: str, taken: set[str], before: str = "") -> str:
    """An anchor no other heading has."""
    base = f"{before}{slug(title)}"
    anchor, i = base, 2
    while anchor in taken:
        anchor, i = f"{base}-{i}", i + 1
    taken.add(anchor)
    return anchor


def _search(search: ReportSearch, taken: set[str]) -> dict[str, Any]:
    anchor = _unique(search.title, taken)
    parts = [p for p in search.parts if p is not None]
    return {
        "title": search.title,
        "anchor": anchor,
        "asked": search.asked,
        "found": search.found,
        "verdict": search.verdict,
        "tone": search.tone,
        "facts": search.facts,
        "warnings": search.warnings,
        "parts": [_part(p, _unique(p.title, taken, f"{anchor}-")) for p in parts],
    }


def _numbers(search: ReportSearch) -> dict[str, Any]:
    """What of a search goes into report.json: its summary, its own numbers, its figures' and its tables'."""
    parts = [p for p in search.parts if p is not None]
    return {
        "asked": search.asked,
        "found": search.found,
        "verdict": search.verdict,
        "tone": search.tone,
        "facts": dict(search.facts),
        "warnings": [*search.warnings, *(w for p in parts for w in p.warnings)],
        **search.numbers,
        "figures": {f.name: f.numbers for p in parts for f in p.figures if f.numbers is not None},
        "tables": [
            {
                "part": p.title,
                "caption": t.caption,
                "columns": list(t.columns),
                "rows": [list(r) for r in t.rows],
            }
            for p in parts
            for t in p.tables
        ],
    }


def render(
    searches: Sequence[ReportSearch],
    shared: Sequence[ReportPart | None] = (),
    title: str = "",
    made_by: str = "elsewhere",
) -> str:
    """The page as HTML text. ``shared`` parts (provenance, citations) come after all searches."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    taken = {"summary", "contents", "about"}
    root = package_files(__name__.partition(".")[0]).joinpath("templates")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(root.joinpath("report.html.jinja").read_text("utf-8")).render(
        title=title or " · ".join(s.title for s in searches) or "Report",
        style=Markup(root.joinpath("report.css").read_text("utf-8")),  # noqa: S704  (our own style sheet)
        searches=[_search(s, taken) for s in searches],
        shared=[_part(p, _unique(p.title, taken, "about-")) for p in shared if p is not None],
        made_by=made_by,
    )


def write_report(
    path: Path,
    searches: Sequence[ReportSearch],
    numbers: Mapping[str, Any],
    *,
    shared: Sequence[ReportPart | None] = (),
    title: str = "",
    made_by: str = "elsewhere",
) -> None:
    """Write ``path`` (HTML, everything inline) and the same name with .json beside it, each in one rename.

    ``numbers`` stands at the top of the JSON; every search follows under ``searches``, by title, figures included.
    """
    text = render(searches, shared, title, made_by)
    of_searches = {s.title: _numbers(s) for s in searches}
    write_json(path.with_suffix(".json"), plain({**numbers, "searches": of_searches}))
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
