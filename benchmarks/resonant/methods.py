"""Every method as one function of a problem: fitted on what an experiment has, it returns what scores an event.

The classifiers are trees (2309.13111), ten members. Flows have the published networks; on a processor they are trained with larger
batches for fewer epochs than published (`FLOW`), which is what a machine of two cores can do in minutes.
"""

from __future__ import annotations

from collections.abc import Callable
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

#: Flow training on two cores: the published networks, batches and learning rate eight times as large, a third of the epochs.
FLOW: dict[str, Any] = {"batch": 2048, "learning_rate": 8e-4, "epochs": 30, "best": 5}
MEMBERS = 10
#: Sidebands of the classifiers that take them as they are, GeV.
WIDTH = 200.0

Method = Callable[[Problem], Any]


def trees(problem: Problem, background: Events, data: Events) -> Any:
    """Ten boosted trees, data against background."""
    return WeakTrees(members=MEMBERS, seed=problem.seed).fit(background, data)


def against(problem: Problem, reference: Any) -> Any:
    """The weak classifier of a reference that is learnt from the data."""
    background = reference.fit(problem.data, WINDOW).sample(None, np.random.default_rng([problem.trial, 2]))
    return trees(problem, background, problem.inside)


def outside(problem: Problem, score: Any) -> Any:
    """A score that learns from all events beside the window and from those inside."""
    beside = Outside().fit(problem.data, WINDOW).sample(None, np.random.default_rng([problem.trial, 3]))
    return score.fit(beside, problem.inside)


def supervised(problem: Problem) -> Any:
    """Trees with labels: the ceiling."""
    background, signal = problem.supervised
    return trees(problem, background, signal)


def idealised(problem: Problem) -> Any:
    """True background as the reference: what a perfect reference gives."""
    return against(problem, KnownBackground(background=problem.template))


def salad(problem: Problem) -> Any:
    """Another shower's simulation, reweighted."""
    return against(problem, Salad(simulation=problem.simulation, width=400.0, seed=problem.seed))


def feta(problem: Problem) -> Any:
    """Another shower's simulation, morphed."""
    return against(problem, Feta(simulation=problem.simulation, seed=problem.seed))


def curtains(problem: Problem) -> Any:
    """Sideband events moved into the window by optimal transport."""
    return against(problem, Curtains(seed=problem.seed))


def flow_for_flow(problem: Problem) -> Any:
    """Sideband events moved into the window by maximum likelihood."""
    settings = {"base_epochs": 30, "epochs": 30, "batch": 1024}
    return against(problem, CurtainsFlow(seed=problem.seed, **settings))


def ranode(problem: Problem) -> Any:
    """The signal's density fitted on a frozen background's."""
    return outside(problem, RAnode(seed=problem.seed, splits=4, signal_epochs=60, **FLOW))


def lacathode(problem: Problem) -> Any:
    """Trees in the latent space of the sidebands' flow."""
    return outside(
        problem, LaCathode(WeakTrees(members=MEMBERS, seed=problem.seed), seed=problem.seed, **FLOW)
    )


#: In the order of their cost.
METHODS: dict[str, Method] = {
    "supervised": supervised,
    "idealised": idealised,
    "cwola": lambda p: against(p, Sidebands(width=WIDTH)),
    "salad": salad,
    "cathode": lambda p: against(p, Cathode(seed=p.seed, **FLOW)),
    "lacathode": lacathode,
    "anode": lambda p: outside(p, Anode(seed=p.seed, **FLOW)),
    "density": lambda p: outside(p, FlowDensity(seed=p.seed, **FLOW)),
    "curtains": curtains,
    "curtainsf4f": flow_for_flow,
    "feta": feta,
    "ranode": ranode,
}
