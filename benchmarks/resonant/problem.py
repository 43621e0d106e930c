"""The common problem that every method is measured on: data with a hidden W', and test events no method ever sees.

Set half, half the published size (2109.00546): 60,000 background events in the signal region 3.3-3.7 TeV, as many again for an
idealised template, sidebands from 500,000 inclusive events (the set's and more of the same), tested on 150,000 background events
and the held-out signal. Set small has a
quarter of that and takes the sidebands of the QCD events that ship beside its own; its figures are no published ones. Every trial has
its own signal draw and its own split of the signal region's background into data and template.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from common import CACHE
from elsewhere.events import Column, Events, Window, identity_hash
from elsewhere.processors.features import load_features
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.samples.resonant import Part, parts_of
from elsewhere.samples.shipped import shipped
from elsewhere.workspace import Workspace
from features import make, read_part, table_path

WINDOW = Window(3300.0, 3700.0)
#: The set, background events of the data in the signal region (an idealised template has as many), and S/B there; small has the
#: S / sqrt(B) of the other.
SIZES = {"half": (60_000, 0.006), "small": (16_000, 0.0116)}
SET = os.environ.get("ELSEWHERE_SET", "half")
REGION, S_OVER_B = SIZES[SET]
SEED = 1
#: Chunks of inclusive data and of the other shower's QCD at all masses that stands for a simulation.
INCLUSIVE, SIMULATED = 250, 60
NOISE = 50
#: Fractions of the hunted mass that `shifted` adds to both jet-mass columns.
SHIFT = 0.1


def identity_of(which: str) -> str:
    """Names the tables of a set: other cards or another seed are another text."""
    return " ".join(table_path(p.card, SEED, i).name for p in parts_of(which) for i in p.numbers)


def simulated() -> list[Part]:
    """The other shower's QCD: in the signal region, and at all masses."""
    region, every = parts_of("alternative")
    return [region, replace(every, chunks=SIMULATED)]


def inclusive() -> Part:
    """QCD at all masses of the size that belongs to the signal region of set half: more of the part that the set begins."""
    return replace(next(p for p in parts_of("full") if p.name == "inclusive"), chunks=INCLUSIVE)


@cache
def table_of(part: str, which: str = SET) -> tuple[Events, np.ndarray]:
    """All selected events of a part and the columns `features.MORE`, in an order that has nothing to do with how they were made."""
    if which == "alternative":
        wanted = next(p for p in simulated() if p.name == part)
    elif (part, which) == ("inclusive", "half"):
        wanted = inclusive()
    else:
        wanted = next(p for p in parts_of(which) if p.name == part)
    make([wanted], workers=2, minutes=float("inf"))  # what is there already is not made again
    found, more = read_part(wanted, SEED)
    order = np.argsort(identity_hash(found.identity, 99))
    return found.take(order), more[order]


def events_of(part: str, which: str = SET) -> Events:
    """All selected events of a part, in the baseline's features."""
    return table_of(part, which)[0]


@cache
def shipped_events() -> Events:
    """The QCD events that ship: another run number than any set's."""
    features, folder = load_features("dijet"), CACHE / "resonant" / "shipped"
    process(preflight({"qcd": [str(shipped("qcd"))]}, features), features, folder, scheduler="loop")
    return Workspace(folder).read_table("qcd").events


def in_window(events: Events) -> Events:
    """Those in the signal region."""
    return events.take(WINDOW.contains(events.mass))


def baseline(events: Events) -> Events:
    """m_J1, m_J2 - m_J1, and both tau21."""
    return events


def shifted(events: Events) -> Events:
    """Both mass columns plus a tenth of the hunted mass: features that depend on it, as in 2109.00546."""
    x = events.x.copy()
    x[:, :2] += (SHIFT * events.mass[:, None]).astype(np.float32)
    return Events(
        x, events.mass, events.weight, events.identity, replace(events.features, name="dijet/shifted")
    )


def noise(events: Events) -> Events:
    """Fifty standard normal columns more, each decided by the event's identity alone."""
    more = np.empty((len(events), NOISE), np.float32)
    for i in range(0, NOISE, 2):  # Box and Muller
        u, v = (
            (identity_hash(events.identity, 7000 + i + k) >> np.uint64(11)).astype(np.float64) / 2.0**53
            for k in (0, 1)
        )
        size = np.sqrt(-2.0 * np.log1p(-u))
        more[:, i], more[:, i + 1] = size * np.cos(2 * np.pi * v), size * np.sin(2 * np.pi * v)
    columns = (*events.features.columns, *(Column(f"noise_{i}", "", "standard normal") for i in range(NOISE)))
    features = replace(events.features, columns=columns, name="dijet/noise")
    return Events(np.hstack([events.x, more]), events.mass, events.weight, events.identity, features)


def with_distance(events: Events, more: np.ndarray) -> Events:
    """The distance of the jets as one more feature: it is correlated with m_jj."""
    columns = (*events.features.columns, Column("dR_jj", "", "distance of the jets in eta and phi"))
    features = replace(events.features, columns=columns, name="dijet/dr")
    return Events(np.hstack([events.x, more[:, :1]]), events.mass, events.weight, events.identity, features)


def heavy_first(events: Events, more: np.ndarray) -> Events:
    """The features of PAWS (2405.08889): mass, tau21 and tau32 of the heavier jet, then of the lighter."""
    light, difference, tau21_1, tau21_2 = events.x.T
    x = np.stack([light + difference, tau21_2, more[:, 2], light, tau21_1, more[:, 1]], axis=1)
    names = ("m_h1", "tau21_h1", "tau32_h1", "m_h2", "tau21_h2", "tau32_h2")
    columns = tuple(
        Column(n, "GeV" if n[0] == "m" else "", "of the heavier (h1) or lighter jet") for n in names
    )
    features = replace(events.features, columns=columns, name="dijet/paws")
    return Events(x, events.mass, events.weight, events.identity, features)


WIDER: dict[str, Callable[[Events, np.ndarray], Events]] = {"dr": with_distance, "paws": heavy_first}
VARIANTS: dict[str, Callable[[Events], Events]] = {"baseline": baseline, "shifted": shifted, "noise": noise}


@dataclass(frozen=True)
class Problem:
    """One trial: everything a method may look at, and what it is tested on, in the features of ``variant`` (of `VARIANTS` or `WIDER`)."""

    trial: int
    s_over_b: float
    variant: str = "baseline"

    def _events(self, part: str, which: str = SET) -> Events:
        if self.variant in WIDER:
            return WIDER[self.variant](*table_of(part, which))
        return VARIANTS[self.variant](events_of(part, which))

    @property
    def seed(self) -> int:
        """Seed of the trial's networks, trees and draws."""
        return 1000 + self.trial

    @cached_property
    def _pool(self) -> Events:
        pool = Events.concatenate([in_window(self._events(p)) for p in ("sr_data", "sr_template")])
        return pool.take(np.random.default_rng(self.trial).permutation(len(pool)))

    @cached_property
    def template(self) -> Events:
        """Background of the signal region that is not in the data: for the idealised method alone."""
        return self._pool.take(slice(REGION, 2 * REGION))

    @cached_property
    def hidden(self) -> Events:
        """The signal in the data, in and outside the window."""
        pool = self._events("signal_pool")
        inside = WINDOW.contains(pool.mass).mean()
        wanted = round(self.s_over_b * REGION / inside)
        return pool.take(np.random.default_rng([self.trial, 1]).permutation(len(pool))[:wanted])

    @cached_property
    def data(self) -> Events:
        """What an experiment has: sidebands, signal region, and the hidden signal."""
        every = self._events("inclusive")
        if SET == "small":
            every = Events.concatenate([every, VARIANTS[self.variant](shipped_events())])
        beside = every.take(~WINDOW.contains(every.mass))
        return Events.concatenate([beside, self._pool.take(slice(0, REGION)), self.hidden])

    @cached_property
    def inside(self) -> Events:
        """The data of the signal region."""
        return in_window(self.data)

    @cached_property
    def simulation(self) -> Events:
        """QCD of another shower: what stands for an imperfect simulation.

        All masses, and in the window more events of the same shower that were generated there; the two share the window's weight
        by their numbers.
        """
        every = self._events("alternative", "alternative")
        more = in_window(self._events("sr_alternative", "alternative"))
        inside = WINDOW.contains(every.mass)
        share = inside.sum() / (inside.sum() + len(more))
        whole = Events.concatenate([every, more])
        return replace(whole, weight=np.where(WINDOW.contains(whole.mass), share, 1.0))

    @cached_property
    def supervised(self) -> tuple[Events, Events]:
        """Background and signal of the signal region, with labels."""
        return in_window(self._events("sr_supervised")), in_window(self._events("signal_supervised"))

    @cached_property
    def test(self) -> tuple[Events, Events]:
        """Background and signal of the signal region that nothing is trained on."""
        return in_window(self._events("sr_test")), in_window(self._events("signal_test"))
