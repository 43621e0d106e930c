"""The demo: both searches on the samples that ship, and one report of both."""

from __future__ import annotations

from pathlib import Path

from .search import open_search, outcome, run_search, template
from .stages import Reporter, Search
from .workspace import atomic

#: The searches in the order they run; each is a template of the same name.
SEARCHES = ("dijet", "trigger")


def open_demo(out: Path, test: bool = False) -> list[Search]:
    """Write the demo's search.yaml files into ``out`` unless they are there, and open them."""
    opened = []
    for name in SEARCHES:
        path = out / f"{name}.yaml"
        if not path.exists():
            with atomic(path) as temporary:
                temporary.write_text(template(name))
        opened.append(open_search(path, test=test))
    return opened


def run_demo(out: Path, reporter: Reporter, test: bool = False) -> list[str]:
    """Run both searches in ``out`` and write one report; returns the lines to print."""
    from .reports import write_page

    opened = open_demo(out, test)
    lines: list[str] = []
    for search in opened:
        run_search(search, reporter=reporter)
        last = "hunt" if search.config.hunt is not None else "rates"
        lines += [
            f"{search.config.report.title or search.config.name}:",
            *(f"  {t}" for t in outcome(search, last)),
        ]
    page = out / ("report-test.html" if test else "report.html")
    write_page(page, opened)
    return [*lines, f"report: {page.resolve()}"]
