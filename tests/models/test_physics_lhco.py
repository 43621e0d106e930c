"""The weak classifiers on dijets like the LHC Olympics', made by another generator script."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from elsewhere.events import IDENTITY, Column, Events, FeatureSet, Window, fold_of, identity_hash
from elsewhere.models.folds import CrossFit
from elsewhere.models.references.known import KnownBackground
from elsewhere.models.references.sidebands import Sidebands
from elsewhere.models.representations.mass_scaled import MassScaled
from elsewhere.models.represented import Represented
from elsewhere.models.scores.weak_trees import WeakTrees

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WINDOW = Window(3300.0, 3700.0)
FEATURES = FeatureSet(
    "dijet",
    (
        Column("m_J1", "GeV", ""),
        Column("dm_J", "GeV", ""),
        Column("tau21_1", "", ""),
        Column("tau21_2", "", ""),
    ),
    Column("m_jj", "GeV", ""),
)


def read(name: str) -> Events:
    """One of the files, in an order that has nothing to do with how it was made."""
    path = DATA / f"lhco_like_{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path} is not there: the cross-check samples are not part of the package")
    columns = ["mJ1", "dmJ", "tau21_1", "tau21_2", "mjj", "seed", "label", "event"]
    raw = {
        c: v.to_numpy() for c, v in zip(columns, pq.read_table(path, columns=columns).columns, strict=True)
    }
    identity = np.zeros(len(raw["mjj"]), dtype=IDENTITY)
    identity["run"], identity["luminosityBlock"], identity["event"] = raw["seed"], raw["label"], raw["event"]
    x = np.stack([raw[c] for c in columns[:4]], axis=1).astype(np.float32)
    events = Events(x, raw["mjj"].astype(np.float64), np.ones(len(x)), identity, FEATURES)
    return events.take(np.argsort(identity_hash(identity, 99)))


@pytest.fixture(scope="module")
def background() -> Events:
    return read("bkg_qcd")


@pytest.fixture(scope="module")
def signal() -> Events:
    return read("sig_qq_500_100")


def inside(events: Events) -> Events:
    return events.take(WINDOW.contains(events.mass))


def auc(signal: np.ndarray, background: np.ndarray) -> float:
    """Probability that a signal event scores above a background event, ties counted half."""
    ordered = np.sort(background)
    below, upto = (np.searchsorted(ordered, signal, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / 2 / len(background))


def max_sic(signal: np.ndarray, background: np.ndarray, least: int = 25) -> float:
    """Largest eps_S / sqrt(eps_B) over the thresholds that pass at least ``least`` background events."""
    cuts = np.sort(background)[: len(background) - least + 1]
    eps_b = 1 - np.searchsorted(np.sort(background), cuts) / len(background)
    eps_s = 1 - np.searchsorted(np.sort(signal), cuts) / len(signal)
    return float((eps_s / np.sqrt(eps_b)).max())


def test_supervised_idealised_and_null(background, signal):
    """METHODS 7.2 and 7.3: supervised, idealised at S/B = 1.3 %, and nothing learnt where there is no signal."""
    b, s = inside(background), inside(signal)
    reference, data, held = b.take(slice(0, 14000)), b.take(slice(14000, 28000)), b.take(slice(28000, None))
    held_signal, rest = s.take(slice(0, 8000)), s.take(slice(8000, None))
    known = KnownBackground(reference).fit(data, WINDOW).sample(None, np.random.default_rng(0))
    values = {}
    for name, mixed in (
        ("supervised", rest),
        ("idealised", Events.concatenate([data, rest.take(slice(0, 182))])),
        ("null", data),
    ):
        score = WeakTrees(members=10).fit(known, mixed)
        values[name] = (score.score(held_signal), score.score(held))
    assert auc(*values["supervised"]) >= 0.94
    assert max_sic(*values["idealised"]) >= 0.6 * max_sic(*values["supervised"])
    assert max_sic(*values["null"]) < 2.0


def test_null_calibration_on_held_out_events(background):
    """Data against reference without signal, every event scored by a model that did not see it: AUC 0.5."""
    b = inside(background)
    reference, data = b.take(slice(0, 14000)), b.take(slice(14000, 28000))
    score = CrossFit(WeakTrees(members=4), folds=5).fit(reference, data)
    in_data, in_reference = score.score(data), score.score(reference)
    sigma = np.sqrt((1 / len(data) + 1 / len(reference)) / 12)
    assert abs(auc(in_data, in_reference) - 0.5) < 3 * sigma
    for eps in (0.1, 0.01):
        passing, expected = (in_data > np.quantile(in_reference, 1 - eps)).sum(), eps * len(data)
        assert abs(passing - expected) < 3.5 * np.sqrt(2 * expected)


@pytest.mark.parametrize("hidden", [0, 300])
def test_cwola_finds_what_is_hidden_and_nothing_else(background, signal, hidden):
    """100,000 dijets; 1 in 500 passes, thresholds per fold over all masses."""
    quiet = background.take(slice(0, 100_000))
    events = Events.concatenate([quiet, signal.take(slice(0, hidden))]) if hidden else quiet
    truth, sr = np.arange(len(events)) >= len(quiet), WINDOW.contains(events.mass)
    reference = Sidebands(400.0).fit(events, WINDOW).sample(None, np.random.default_rng(0))
    score = CrossFit(Represented(MassScaled(), WeakTrees(members=5)), folds=5)
    values, fold = score.fit(reference, events.take(sr)).score(events), fold_of(events.identity, 5, 0)
    passing = np.zeros(len(events), dtype=bool)
    for k in range(5):
        passing[fold == k] = values[fold == k] >= np.quantile(values[fold == k], 0.998)
    beside = Window(2900.0, 3300.0), Window(3700.0, 4100.0)
    fractions = [passing[w.contains(events.mass) & ~truth].mean() for w in beside]
    expected, found = np.mean(fractions) * (sr & ~truth).sum(), (passing & sr).sum()
    if hidden:
        assert (passing & sr & truth).sum() > 40
        assert found > expected + 6 * np.sqrt(expected)
    else:
        assert abs(found - expected) < 3.5 * np.sqrt(expected)
