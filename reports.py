"""The report page: from a finished workspace to figures, tables and plain words. Holds no statistics of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from .analysis.plots import CutflowStep, cutflow_rows, plot_cutflow
from .analysis.report import ReportFigure, ReportPart, ReportSearch, ReportTable, write_report
from .report_hunt import hunt_searches
from .report_interpretation import interpretation_parts
from .report_studies import studies_parts
from .report_trigger import trigger_search
from .stages import Progress, Search
from .workspace import read_json


def _counts_part(search: Search) -> ReportPart:
    """What was asked, read, kept and skipped, and the cutflow."""
    counts = read_json(search.space.path("counts.json"))
    flows = {
        name: [CutflowStep(step[0], step[1], step[2]) for step in d["cutflow"]]
        for name, d in counts["datasets"].items()
    }
    roles = {n: d.role for n, d in search.config.events.datasets.items()}
    rows = [
        (n, roles.get(n, "data"), d["files"], d["entries"], d["read"], d["kept"], d["sum_weights"])
        for n, d in counts["datasets"].items()
    ]
    lost = counts["quarantine"]
    left_out = [ReportTable(("dataset", "file", "events", "why"), [
        (q["dataset"], Path(q["path"]).name, "unknown" if q["events"] is None else q["events"], q["reason"])
        for q in lost
    ], "Files in quarantine.")] if lost else []  # fmt: skip
    return ReportPart(
        "Events",
        ("INCOMPLETE: " if lost else "")
        + f"{len(lost)} files could not be used, and none of their events are; every entry of the others was read exactly "
        "once. The ledger behind this table is checked whenever the stage ends, and again by the command elsewhere verify.",
        figures=[
            ReportFigure(
                "cutflow",
                plot_cutflow(flows, label=search.config.report.label),
                "Events after each cut.",
                flows,
            )
        ],
        tables=[
            *left_out,
            ReportTable(("dataset", "role", "files", "asked", "read", "kept", "sum of weights"), rows),
            ReportTable(("dataset", "step", "events", "weight", "share"), cutflow_rows(flows), "Cutflow."),
        ],
    )


def _provenance_part(search: Search) -> ReportPart:
    """What was asked, with every default; versions, times, throughput, citations."""
    from .search import citations_of

    record = read_json(search.space.path("provenance.json"))
    stages = [(n, s["wall_s"], s["cpu_s"], s["key"][:12]) for n, s in record["stages"].items()]
    speed = [
        (
            n,
            t["events"],
            t["events_per_s"],
            t["events_per_cpu_s"],
            t["workers"],
            t["cpu_efficiency"],
            f"{t['bytes_read'] / 1e6:.1f}",
        )
        for n, s in record["stages"].items()
        if (t := s.get("throughput"))
    ]
    links = [s["dashboard"] for s in record["stages"].values() if s.get("dashboard")]
    files = read_json(search.space.path("fileset.json"))
    inputs = [(n, Path(r["path"]).name, r["uuid"], r["entries"]) for n, rs in files.items() for r in rs]
    return ReportPart(
        "Provenance",
        f"Seed {record.get('seed', search.config.seed)}. The keys are digests of everything a stage depends on.",
        tables=[
            ReportTable(
                ("stage", "wall [s]", "CPU [s]", "key"),
                stages,
                "Times; CPU of this process and its children.",
            ),
            ReportTable(
                (
                    "stage",
                    "events",
                    "events/s",
                    "events per CPU second",
                    "workers",
                    "CPU efficiency",
                    "MB read",
                ),
                speed,
                "Throughput; "
                + (f"Dask dashboard while it ran: {links[-1]}; " if links else "")
                + "CPU efficiency is CPU time in tasks over wall time of all workers, start-up included.",
            ),
            ReportTable(("dataset", "file", "UUID", "entries"), inputs, "Input files."),
            ReportTable(("package", "version"), list(record.get("versions", {}).items())),
        ],
        code=yaml.safe_dump(search.config.model_dump(mode="json"), sort_keys=False)
        + "\n"
        + citations_of(search),
        folded=True,
    )


def describe(search: Search) -> list[ReportSearch]:
    """The page's groups for one search: one for a trigger study, one per variant for a hunt."""
    shared = [*interpretation_parts(search), _counts_part(search), _provenance_part(search)]
    if search.config.hunt is not None:
        return hunt_searches(search, [*studies_parts(search), *shared])
    return [trigger_search(search, shared)]


def write_page(path: Path, searches: Sequence[Search]) -> None:
    """One self-contained page of several finished searches, and the same name with .json beside it."""
    groups = [g for s in searches for g in describe(s)]
    titles = [s.config.report.title or s.config.name for s in searches]
    numbers: dict[str, Any] = {"searches_made": [s.config.name for s in searches]}
    write_report(path, groups, numbers, title=" · ".join(titles), made_by="elsewhere")


def report(search: Search, key: str, progress: Progress) -> tuple[list[str], dict[str, Any]]:  # noqa: ARG001
    """Write report.html and report.json of one search."""
    progress(0, 1)
    write_page(search.space.path("report.html"), [search])
    progress(1, 1)
    return ["report.html", "report.json"], {}
