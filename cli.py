"""The command line: the verbs, progress bars, tables and exit codes (0 done, 1 failed, 2 wrong usage, 3 files left out)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from . import __version__
from .errors import ConfigError, ElsewhereError

#: Exit code of a run that finished without the files that had to be left out.
INCOMPLETE = 3
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _console() -> Any:
    from rich.console import Console

    return Console()


@contextmanager
def _bar(stage: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """One progress bar: done of total, rate and time left; plain lines when the output is not a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = _console()
    if not console.is_terminal:
        console.print(f"{stage} ...", highlight=False)
    columns = (
        TextColumn(f"{stage:<9}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(stage, total=1, rate="")

        def show(done: int, total: int) -> None:
            speed = progress.tasks[0].finished_speed or progress.tasks[0].speed
            progress.update(task, completed=done, total=total, rate=f"{speed:,.0f} {unit}/s" if speed else "")

        yield show


class _Verbs(click.Group):
    """Turns our errors into one clear message and exit code 1 (2 for wrong usage)."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            click.secho(f"elsewhere: {error}", fg="red", err=True)
            ctx.exit(2)
        except (ElsewhereError, OSError) as error:
            click.secho(f"elsewhere: {error}", fg="red", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.secho("elsewhere: interrupted; the same command goes on where it was", fg="red", err=True)
            ctx.exit(1)

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Verbs, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="elsewhere")
@click.option("-v", "--verbose", is_flag=True, help="Say more (log level INFO).")
def main(verbose: bool) -> None:
    """Search collider data for new physics without saying what to look for.

    \b
    elsewhere demo                        # the two searches that ship, with a report
    elsewhere init search.yaml            # a commented search of your own
    elsewhere run search.yaml             # all of it
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)  # loggers of other packages set levels of their own
        handler.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not that Dask kills a worker which was told to end and takes longer than four seconds."""
    return record.name != "distributed.nanny" or "still alive after" not in record.getMessage()


def _strict(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    """--strict is --set run.strict=true in one word."""
    if value:
        ctx.params["overrides"] = (*ctx.params.get("overrides", ()), "run.strict=true")


def _search_options(function: Callable[..., None]) -> Callable[..., None]:
    """The argument and options that every verb on a search.yaml has."""
    options = (
        click.argument("search", type=click.Path(path_type=Path)),
        click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Change one setting."),
        click.option(
            "--test", is_flag=True, help="Small settings: a minute on any machine; its own workspace."
        ),
        click.option("--dry-run", is_flag=True, help="Say what would run and why, then stop."),
        click.option(
            "--strict",
            is_flag=True,
            expose_value=False,
            callback=_strict,
            help="The first unusable file stops the run (run.strict=true).",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _run(path: Path, overrides: tuple[str, ...], test: bool, dry_run: bool, upto: str | None) -> Any:
    """Open a search and run its stages up to and including ``upto`` (None: all)."""
    from .search import open_search, plan_search, run_search
    from .stages import Reporter

    search = open_search(path, overrides, test=test)
    if dry_run:
        _print_plan(plan_search(search, upto))
        return search
    run_search(search, upto, Reporter(_bar))
    return search


def _print_plan(planned: list[Any]) -> None:
    from rich.table import Table

    table = Table("stage", "would run", "why")
    for item in planned:
        table.add_row(item.stage.name, "yes" if item.needed else "no", item.why)
    _console().print(table)


@main.command()
@click.argument("path", type=click.Path(path_type=Path), default="search.yaml")
def init(path: Path) -> None:
    """Write a commented example to PATH (default search.yaml).

    \b
    Example:  elsewhere init my-search.yaml
    """
    from .search import template
    from .workspace import atomic

    if path.exists():
        raise ConfigError(f"{path} exists; give another name, or remove it first")
    with atomic(path) as temporary:
        temporary.write_text(template("search"))
    click.echo(f"wrote {path}; next: put your files in, then  elsewhere check {path}")


@main.command()
@_search_options
def check(search: Path, overrides: tuple[str, ...], test: bool, dry_run: bool) -> None:
    """Check settings and every input file, and list the columns that would be made. Runs nothing.

    \b
    Example:  elsewhere check search.yaml
    """
    from rich.table import Table

    from .search import check_search, open_search, plan_search

    opened = open_search(search, (*overrides, "run.strict=true"), test=test)  # a check names every bad file
    found = check_search(opened)
    table = Table("dataset", "role", "files", "events", title=f"{opened.config.name}: inputs")
    for row in found.datasets:
        table.add_row(row.name, row.role, str(row.files), f"{row.entries:,}")
    columns = Table("column", "unit", "meaning", title=f"feature set '{found.features.name}'")
    features = found.features
    for column in (*features.columns, *((features.mass,) if features.mass else ()), *features.extras):
        columns.add_row(column.name, column.unit, column.meaning)
    console = _console()
    console.print(table)
    console.print(columns)
    console.print("branches read: " + ", ".join(found.branches), highlight=False)
    if dry_run:
        _print_plan(plan_search(opened, None))


def _stage_verb(name: str, text: str) -> None:
    """Make the verb of one stage; it runs the stages before it that are not up to date."""

    @main.command(name=name, help=f"{text}\n\n\b\nExample:  elsewhere {name} search.yaml")
    @_search_options
    def verb(search: Path, overrides: tuple[str, ...], test: bool, dry_run: bool) -> None:
        opened = _run(search, overrides, test, dry_run, name)
        if not dry_run:
            _say_result(opened, name)


def _say_result(opened: Any, name: str) -> None:
    """Print what came of it; exit code 3 where files had to be left out."""
    from .search import losses, outcome

    for line in outcome(opened, name):
        click.echo(line)
    lost = losses(opened)
    if lost:
        click.secho(
            f"incomplete: {len(lost)} files in quarantine, none of their events used", fg="red", err=True
        )
        for reason in lost:
            click.secho(f"  {reason}", fg="red", err=True)
        sys.exit(INCOMPLETE)


_TEXTS = {
    "process": "Stream the files through Dask: features, columns, histograms, counts.",
    "train": "Learn what is ordinary: every model of the search, with checkpoints.",
    "score": "Stream again with the models handed in: no event meets a model that saw it.",
    "hunt": "Fit, scan, and quote local and global p-values.",
    "limits": "Upper limits of every window and cut, and the likelihood for other programs.",
    "studies": "Injections, stability, importance and the oddest events of the best window.",
    "rates": "Rate against threshold, float and firmware.",
    "front": "Resources against physics: the score for other widths and parts of its weights.",
    "interpretation": "What the score follows, what its space knows, and displays of the oddest events.",
    "firmware": "Export the network, compile it, and compare it bit by bit.",
    "report": "One self-contained page and every number as JSON.",
}
for _name, _text in _TEXTS.items():
    _stage_verb(_name, _text)


@main.command()
@_search_options
def run(search: Path, overrides: tuple[str, ...], test: bool, dry_run: bool) -> None:
    """Every stage of a search, from files to report; what is up to date is not run again.

    \b
    Examples:
      elsewhere run search.yaml
      elsewhere run search.yaml --set hunt.toys=100000 --dry-run
    """
    opened = _run(search, overrides, test, dry_run, None)
    if not dry_run:
        _say_result(opened, "report")


@main.command()
@click.argument("card", required=False)
@click.option("--events", type=click.IntRange(1), default=10_000, show_default=True, help="Events to keep.")
@click.option("--out", type=click.Path(path_type=Path), help="ROOT file to write (default CARD.root).")
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Local processes.")
@click.option("--scheduler", help="A Dask scheduler's address instead of local processes.")
@click.option("--shipped", is_flag=True, help="Make all samples that ship again.")
def simulate(
    card: str | None,
    events: int,
    out: Path | None,
    seed: int,
    workers: int,
    scheduler: str | None,
    shipped: bool,
) -> None:
    """Generate events of CARD with Pythia 8, FastJet and a fast detector; a killed run goes on where it was.

    \b
    Examples:
      elsewhere simulate qcd --events 20000 --out qcd.root --seed 7
      elsewhere simulate --shipped
    """
    from .search import simulate_sample

    with _bar("simulate", "events") as progress:
        lines = simulate_sample(
            card, events, out, seed, workers, scheduler, shipped=shipped, progress=progress
        )
    for line in lines:
        click.echo(line)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--test", is_flag=True, help="Small settings: a minute on any machine.")
def demo(out: Path, test: bool) -> None:
    """The dijet search and the trigger study on the samples that ship, and one report of both.

    \b
    Example:  elsewhere demo --out runs/demo
    """
    from .demo import run_demo
    from .stages import Reporter

    for line in run_demo(out, Reporter(_bar), test=test):
        click.echo(line)


@main.command()
def methods() -> None:
    """The methods of every factor, with their papers and settings."""
    from rich.table import Table

    from .search import method_rows

    table = Table("factor", "method", "arXiv", "settings")
    for row in method_rows():
        table.add_row(*row)
    _console().print(table)


@main.command()
@_search_options
def cite(search: Path, overrides: tuple[str, ...], test: bool, dry_run: bool) -> None:  # noqa: ARG001
    """BibTeX of what SEARCH really uses.

    \b
    Example:  elsewhere cite search.yaml > search.bib
    """
    from .search import citations_of, open_search

    click.echo(citations_of(open_search(search, overrides, test=test)))


@main.command()
@_search_options
def verify(search: Path, overrides: tuple[str, ...], test: bool, dry_run: bool) -> None:  # noqa: ARG001
    """Recount a finished workspace (SEARCH: its folder, or a search.yaml) against its input files: counts, checksums and
    every event's identity; fails when one is missing or there twice.

    \b
    Examples:
      elsewhere verify search.yaml
      elsewhere verify runs/dijet
    """
    from .search import verify_search

    lines, good = verify_search(search, overrides, test)
    for line in lines:
        click.echo(line)
    if not good:
        sys.exit(1)
