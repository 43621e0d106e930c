"""Data that a generated background cannot have made are left out of the training beside it, and of nothing else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from elsewhere.events import Events, Window
from elsewhere.models.base import Bounded
from elsewhere.models.references.cathode import Cathode
from elsewhere.models.references.comparable import comparable
from elsewhere.models.references.curtains import Curtains
from elsewhere.models.references.feta import Feta
from elsewhere.models.references.flow_for_flow import CurtainsFlow
from elsewhere.models.references.outside import Outside
from elsewhere.models.references.salad import Salad
from elsewhere.models.references.sidebands import Sidebands
from elsewhere.models.scores.weak_trees import WeakTrees

WINDOW = Window(3300.0, 3700.0)
MOVED: dict[str, Any] = {
    "transforms": 1,
    "base_hidden": (8,),
    "base_epochs": 1,
    "epochs": 1,
    "layers": 2,
    "batch": 512,
}


def rounded(events: Events) -> Events:
    """The first column not below 0, and exactly 0 for one event in 20: what a difference of rounded masses looks like."""
    x = np.abs(events.x)
    x[::20, 0] = 0.0
    return replace(events, x=x)


def references(simulation: Events) -> dict[str, Any]:
    return {
        "cathode": Cathode(kind="nsf", transforms=1, hidden=(8,), epochs=1, best=1),
        "curtains": Curtains(epochs=1, layers=1, hidden=(8,)),
        "curtainsf4f": CurtainsFlow(**MOVED),
        "feta": Feta(simulation=simulation, **MOVED),
    }


@pytest.mark.parametrize("name", ["cathode", "curtains", "curtainsf4f", "feta"])
def test_no_bounded_reference_makes_what_lies_on_its_bounds(toy, name):
    data = rounded(toy(6000, 1))
    fitted = references(rounded(toy(6000, 2, first=50_000)))[name].fit(data, WINDOW)
    assert isinstance(fitted, Bounded)
    made, inside = fitted.sample(4000, np.random.default_rng(3)), data.take(WINDOW.contains(data.mass))
    kept = comparable(inside, fitted)
    if name != "curtains":  # which moves values off their places, but has hardly begun to
        assert not (made.x[:, 0] == 0).any()
    assert (inside.x[:, 0] == 0).sum() > 10
    assert not (kept.x[:, 0] == 0).any()
    # beyond the extremes of the sidebands lie few others
    assert len(inside) - len(kept) < (inside.x[:, 0] == 0).sum() + 25
    assert np.array_equal(kept.x, inside.take(np.isin(inside.identity, kept.identity)).x)


def test_a_reference_of_real_events_leaves_out_nothing(toy):
    data = rounded(toy(4000, 1))
    for one in (Sidebands(300.0), Outside(), Salad(simulation=data, epochs=1, best=1)):
        assert not isinstance(one, Bounded)
        assert comparable(data, one) is data


def test_trees_do_not_take_an_edge_for_a_signal(toy):
    """Data like the reference but for their zeros: with them the trees put the zeros on top, without them nothing."""
    data, drawn = rounded(toy(8000, 1)), toy(8000, 2, first=50_000)
    drawn = replace(drawn, x=np.abs(drawn.x))

    class Drawn:
        def bounds(self):
            return drawn.x.min(axis=0).astype(float), drawn.x.max(axis=0).astype(float)

    top = {}
    for name, learnt in (("all", data), ("comparable", comparable(data, Drawn()))):
        score = WeakTrees(members=2, seed=1).fit(drawn, learnt).score(data)
        first = np.argsort(-score, kind="stable")[:200]
        top[name] = (data.x[first, 0] == 0).mean()
    assert top["all"] > 0.9
    assert top["comparable"] < 0.2
