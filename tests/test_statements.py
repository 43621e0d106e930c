"""Limits and exports of a finished hunt: known numbers, and pyhf reading what was written."""

import json

import numpy as np
import pytest
from elsewhere.analysis.limits import upper_limit
from elsewhere.config import HuntSection
from elsewhere.deploy.exports.statement import Statement
from elsewhere.deploy.exports.write import write_exports
from elsewhere.statements import binned_model, limits_of, window_limit

EDGES = np.arange(2500.0, 6100.0, 100.0)
SECTION = HuntSection(
    mass_low=2500.0,
    mass_high=6000.0,
    windows={"first": 3100.0, "last": 4100.0, "width": 400.0, "step": 200.0},
)


def row(n=100.0, b=100.0, error=10.0, delta=0.0, delta_error=0.0):
    return {
        "window": {"low": 3300.0, "high": 3700.0}, "cut": 0.01, "n": n, "b": b, "b_error": error, "delta": delta,
        "delta_error": delta_error,
    }  # fmt: skip


def best(delta=0.0):
    centre = 0.5 * (EDGES[1:] + EDGES[:-1])
    counts = np.round(20_000 * np.exp(-(centre - 2500) / 350.0))
    return {**row(delta=delta, delta_error=abs(delta) / 2), "counts": counts.tolist(), "order": 2}


def test_a_window_has_the_known_limit_and_a_bias_loosens_it():
    assert window_limit(row()).observed == pytest.approx(28.4, abs=0.1)
    assert window_limit(row(delta_error=0.2)).observed > 40
    assert window_limit(row(n=120, delta=0.2)).expected[2] > window_limit(row()).expected[2]


def test_a_window_without_a_limit_is_named_with_its_reason():
    made = limits_of([row(), row(b=0.0, error=0.0)])
    assert [one["observed"] for one in made["limits"]] == [pytest.approx(28.4, abs=0.1)]
    assert made["missing"][0]["window"] == row()["window"]
    assert "expects no background" in made["missing"][0]["why"]


def test_the_likelihood_has_the_window_fit_and_its_errors():
    model = binned_model(best(), best(), EDGES, SECTION, 3500.0)
    counts = np.array(best()["counts"])
    inside = (EDGES[:-1] >= 3300) & (EDGES[:-1] < 3700)
    assert model.signal.sum() == pytest.approx(1.0, abs=1e-3)
    assert model.background[inside].sum() == pytest.approx(counts[inside].sum(), rel=0.03)
    # The error of the sum over the window is that of the masked fit, a few percent, and smaller than counting's.
    total = np.sqrt((model.modes[:, inside].sum(axis=1) ** 2).sum())
    assert 0 < total < np.sqrt(counts[inside].sum())
    biased = binned_model(best(), best(delta=0.3), EDGES, SECTION, 3500.0)
    np.testing.assert_allclose(biased.background[inside], 1.3 * model.background[inside])
    np.testing.assert_allclose(biased.background[~inside], model.background[~inside])
    assert len(biased.modes) == len(model.modes) + 1


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver:DeprecationWarning")
def test_pyhf_reads_the_export_and_finds_the_same_limit(tmp_path):
    pyhf = pytest.importorskip("pyhf")
    found = best(delta=0.05)
    model = binned_model(best(), found, EDGES, SECTION, 3500.0)
    counts = np.array(found["counts"])
    write_exports(Statement.of("search", "a test", EDGES, counts, model), tmp_path)
    spec = json.loads((tmp_path / "search.pyhf.json").read_text())
    workspace = pyhf.Workspace(spec)
    theirs = workspace.model()
    ours = upper_limit(model, counts).observed
    poi = theirs.config.poi_index
    bounds = theirs.config.suggested_bounds()
    bounds[poi] = (0.0, 10 * ours)
    cls = pyhf.infer.hypotest(ours, workspace.data(theirs), theirs, par_bounds=bounds, test_stat="qtilde")
    assert float(cls) == pytest.approx(0.05, abs=0.005)
