"""python -m elsewhere.samples: make an event set or a black box, tell what a set costs, or open a seal."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..errors import ElsewhereError
from .blackbox import make_box, unseal
from .generate import cache_folder
from .resonant import estimate, make_set, set_names


class _Every:
    """Progress as a line now and then."""

    def __init__(self, seconds: float = 30.0) -> None:
        self.seconds, self.started, self.last = seconds, time.monotonic(), 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self.last >= self.seconds or done >= total:
            self.last = now
            click.echo(f"{done:,} of {total:,} events, {now - self.started:,.0f} s")


@click.group()
def main() -> None:
    """Event sets for resonant searches, the trigger and jets with constituents."""


@main.command("set")
@click.argument("name", type=click.Choice([*set_names(), "reduced"]))
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Default: the user's cache.")
@click.option("--cost", is_flag=True, help="Only measure what it costs.")
def set_(name: str, seed: int, workers: int, folder: Path | None, cost: bool) -> None:
    """Make the event set NAME, or go on with it."""
    if not cost:
        click.echo(str(make_set(name, seed, workers, progress=_Every(), folder=folder)))
        return
    rows = estimate(name)
    for row in rows:
        seconds = row.events * row.seconds_per_event
        click.echo(
            f"{row.card:18s} {row.events:9,d} events  {1 / row.seconds_per_event:6.0f} per core and second  {seconds / 60:6.1f} core min"
        )
    total = sum(r.events * r.seconds_per_event for r in rows) / 60
    click.echo(f"{name}: {total:.0f} core min, {total / workers:.0f} min on {workers} cores")


@main.command()
@click.argument("number", type=int)
@click.option("--events", type=click.IntRange(1), default=200_000, show_default=True)
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True)
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Default: the user's cache.")
def box(number: int, events: int, seed: int, workers: int, folder: Path | None) -> None:
    """Make black box NUMBER (1, 2 or 3) and seal what is in it."""
    where = folder or cache_folder().parent / "resonant" / f"boxes-{seed}"
    click.echo(str(make_box(number, events, where, seed, workers, progress=_Every())))


@main.command("unseal")
@click.argument("path", type=click.Path(path_type=Path))
def unseal_(path: Path) -> None:
    """Say what is in a black box; PATH is its sealed file."""
    truth = unseal(path)
    click.echo(f"box {truth['box']}: {truth['events']:,} events, background {truth['background']}")
    for card, signal in truth["signals"].items():
        click.echo(
            f"  {len(signal['events'])} events of {card}: {signal['meaning']}; {signal['masses_gev'] or ''}"
        )
    if not truth["signals"]:
        click.echo("  no signal")


if __name__ == "__main__":
    try:
        main()
    except ElsewhereError as error:
        raise SystemExit(str(error)) from None
