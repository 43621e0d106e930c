"""Jets of a toy: one core of constituents, or two, in the columns of the feature set "constituents"."""

import numpy as np
from elsewhere.events import IDENTITY, Column, Events, FeatureSet

SLOTS = 20
FEATURES = FeatureSet(
    "constituents",
    tuple(Column(f"Cand{i}_{part}", "", part) for i in range(SLOTS) for part in ("pt", "eta", "phi")),
    Column("m_J", "GeV", "mass"),
)


def jets(n: int, seed: int, signal: float = 0.0, first: int = 0) -> Events:
    """``signal`` of the jets, the first ones, have two cores, 0.5 apart, and more constituents; pT falls.

    Jets differ in how wide, how long and how hard they are.
    """
    rng = np.random.default_rng([seed, 17])
    odd = np.arange(n) < round(signal * n)
    counts = np.where(odd, rng.integers(10, 15, n), rng.integers(4, 11, n))
    there = np.arange(SLOTS) < counts[:, None]
    hard = rng.uniform(0.5, 3.0, (n, 1))
    pt = -np.sort(-(rng.exponential(1.0, (n, SLOTS)) ** hard + 0.02) * there, axis=1)
    pt *= rng.uniform(200, 400, (n, 1)) / pt.sum(axis=1, keepdims=True)
    width = np.exp(rng.uniform(np.log(0.02), np.log(0.2), (n, 1)))
    long = rng.uniform(0.1, 1.0, (n, 1))
    eta, phi = rng.normal(0.0, 1.0, (2, n, SLOTS)) * width
    eta *= long
    angle, core = rng.uniform(0, 2 * np.pi, (n, 1)), rng.choice([-0.25, 0.25], (n, SLOTS)) * odd[:, None]
    eta = eta + core
    eta, phi = eta * np.cos(angle) - phi * np.sin(angle), eta * np.sin(angle) + phi * np.cos(angle)
    x = np.stack([v * there for v in (pt, eta, phi)], axis=2).reshape(n, -1).astype(np.float32)
    identity = np.zeros(n, IDENTITY)
    identity["event"] = first + np.arange(n)
    return Events(x, rng.uniform(10, 100, n), np.ones(n), identity, FEATURES)
