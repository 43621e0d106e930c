"""Every method as one function of a problem: fitted on what an experiment has, it returns what scores an event.

What each is trained with is in `settings`; `densities.py` compares the flows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from elsewhere.events import Events
from elsewhere.models.references.cathode import Cathode
from elsewhere.models.references.comparable import comparable
from elsewhere.models.references.curtains import Curtains
from elsewhere.models.references.feta import Feta
from elsewhere.models.references.flow_for_flow import CurtainsFlow
from elsewhere.models.references.known import KnownBackground
from elsewhere.models.references.outside import Outside
from elsewhere.models.references.salad import Salad
from elsewhere.models.references.sidebands import Sidebands
from elsewhere.models.representations.identity import Identity
from elsewhere.models.representations.unrounded import UnroundedMasses
from elsewhere.models.represented import Represented
from elsewhere.models.scores.anode import Anode
from elsewhere.models.scores.flow_density import FlowDensity
from elsewhere.models.scores.latent import LaCathode
from elsewhere.models.scores.ranode import RAnode
from elsewhere.models.scores.weak_trees import WeakTrees
from problem import WINDOW, Problem
from settings import SETTINGS, TREES

Method = Callable[[Problem], Any]


def trees(problem: Problem, background: Events, data: Events) -> Any:
    """The ensemble of boosted trees, data against background."""
    return WeakTrees(**TREES, seed=problem.seed).fit(background, data)


def against(problem: Problem, name: str) -> Any:
    """The weak classifier of the reference ``name``, which is learnt from the data."""
    reference = REFERENCES[name](problem).fit(problem.data, WINDOW)
    background = reference.sample(None, np.random.default_rng([problem.trial, 2]))
    return trees(problem, background, comparable(problem.inside, reference))


def outside(problem: Problem, score: Any) -> Any:
    """A score that learns from all events beside the window and from those inside, of masses that are not rounded.

    The shifted ones are not: a tenth of m_jj hides the steps.
    """
    beside = Outside().fit(problem.data, WINDOW).sample(None, np.random.default_rng([problem.trial, 3]))
    whole = Identity() if problem.variant == "shifted" else UnroundedMasses()
    return Represented(whole, score).fit(beside, problem.inside)


def supervised(problem: Problem) -> Any:
    """Trees with labels: the ceiling."""
    return WeakTrees(**SETTINGS["supervised"], seed=problem.seed).fit(*problem.supervised)


def lacathode(problem: Problem) -> Any:
    """Trees in the latent space of the sidebands' flow."""
    trees = WeakTrees(**TREES, seed=problem.seed)
    return outside(problem, LaCathode(trees, seed=problem.seed, **SETTINGS["lacathode"]))


#: What stands for the background in the window, by name: a true one, the sidebands, learnt densities, moved events, another
#: shower's simulation reweighted or morphed.
REFERENCES: dict[str, Callable[[Problem], Any]] = {
    "idealised": lambda p: KnownBackground(background=p.template),
    "cwola": lambda p: Sidebands(**SETTINGS["cwola"]),  # noqa: ARG005
    "salad": lambda p: Salad(simulation=p.simulation, seed=p.seed, **SETTINGS["salad"]),
    "cathode": lambda p: Cathode(seed=p.seed, **SETTINGS["cathode"]),
    "curtains": lambda p: Curtains(seed=p.seed, **SETTINGS["curtains"]),
    "curtainsf4f": lambda p: CurtainsFlow(seed=p.seed, **SETTINGS["curtainsf4f"]),
    "feta": lambda p: Feta(simulation=p.simulation, seed=p.seed, **SETTINGS["feta"]),
}
#: In the order of their cost.
METHODS: dict[str, Method] = {
    "supervised": supervised,
    **{name: partial(against, name=name) for name in REFERENCES},
    "lacathode": lacathode,
    "anode": lambda p: outside(p, Anode(seed=p.seed, **SETTINGS["anode"])),
    "density": lambda p: outside(p, FlowDensity(seed=p.seed, **SETTINGS["density"])),
    "ranode": lambda p: outside(p, RAnode(seed=p.seed, **SETTINGS["ranode"])),
}
