"""A toy every model can learn in a second: four Gaussian columns, signal three widths away in two of them."""

from collections.abc import Callable

import numpy as np
import pytest
from elsewhere.events import IDENTITY, Column, Events, FeatureSet

FEATURES = FeatureSet("toy", tuple(Column(f"f{i}", "", "toy") for i in range(4)), Column("m", "GeV", "mass"))


def make(n: int, seed: int, signal: float = 0.0, first: int = 0) -> Events:
    """``n`` events with identities from ``first`` on; the first ``signal`` * n of them are signal."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    # two correlated pairs, so that an autoencoder has something to learn
    x[:, 1] = 0.9 * x[:, 0] + 0.3 * x[:, 1]
    x[:, 3] = 0.9 * x[:, 2] + 0.3 * x[:, 3]
    k = round(signal * n)
    x[:k, 0] += 3.0
    x[:k, 1] -= 3.0
    identity = np.zeros(n, dtype=IDENTITY)
    identity["run"], identity["event"] = 1, first + np.arange(n)
    mass = rng.uniform(2000, 6000, n)
    return Events(x.astype(np.float32), mass, rng.uniform(0.5, 1.5, n), identity, FEATURES)


@pytest.fixture(scope="session")
def toy() -> Callable[..., Events]:
    return make
