"""The published feature sets: numbers of columns, every column against its formula, and noise that belongs to the event."""

import math
from uuid import UUID

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import fold_of, make_identity
from elsewhere.processors import dijetsets
from elsewhere.processors.dijetsets import SHAPES, DijetSet, identity_normal
from elsewhere.processors.features import DIJET, Dijet, Features, definition_digest, load_features

TAUS = [f"tau{n}{s}" for s in ("", "_b05", "_b2") for n in range(1, 10)]


def columns_of(n, seed=1):
    """Branches of ``n`` events with 0 to 4 jets in no order."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, n)
    total = int(counts.sum())
    flat = {
        "pt": rng.uniform(1000, 2000, total), "eta": rng.uniform(-2.6, 2.6, total),
        "phi": rng.uniform(-np.pi, np.pi, total), "mass": rng.uniform(0, 600, total),
        "nTracks": rng.integers(0, 60, total), "nConstituents": rng.integers(1, 99, total),
        **{t: np.where(rng.random(total) < 0.05, 0.0, rng.uniform(0, 1, total)) for t in TAUS},
    }  # fmt: skip
    jets = {
        f"FatJet_{k}": ak.unflatten(v.astype(np.float32) if v.dtype.kind == "f" else v, counts)
        for k, v in flat.items()
    }
    return {
        "run": np.full(n, 3, np.uint32),
        "luminosityBlock": np.arange(n, dtype=np.uint32) // 7,
        "event": np.arange(n, dtype=np.uint64),
        **jets,
    }


@pytest.fixture(scope="module")
def columns():
    return columns_of(400)


def pairs(columns):
    """(lighter, heavier, m_jj) of every kept event from plain Python."""
    out = []
    names = [k for k in columns if k.startswith("FatJet_")]
    for i in range(len(columns["run"])):
        jets = [
            {n.removeprefix("FatJet_"): float(columns[n][i][j]) for n in names}
            for j in range(len(columns["FatJet_pt"][i]))
        ]
        jets = sorted(jets, key=lambda j: -j["pt"])[:2]
        if len(jets) == 2 and jets[0]["pt"] > 1200 and all(abs(j["eta"]) < 2.5 for j in jets):
            e, p = 0.0, np.zeros(3)
            for j in jets:
                q = j["pt"] * np.array([math.cos(j["phi"]), math.sin(j["phi"]), math.sinh(j["eta"])])
                e, p = e + math.sqrt(q @ q + j["mass"] ** 2), p + q
            light, heavy = sorted(jets, key=lambda j: j["mass"])
            out.append((light, heavy, math.sqrt(e**2 - p @ p)))
    return out


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("baseline", 4), ("extended_1", 10), ("extended_2", 12), ("extended_3", 56), ("kitchen", 72), ("super", 104),
        ("cwola", 12), ("quak", 12), ("paws", 6),
    ],
)  # fmt: skip
def test_sizes_are_the_published_ones_and_names_are_unique(kind, size):
    features = DijetSet(kind).features
    names = [*features.names, *(c.name for c in features.extras), "m_jj"]
    assert len(features) == size
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "name", [n for n in vars(dijetsets) if n.isupper() and isinstance(getattr(dijetsets, n), DijetSet)]
)
def test_a_search_finds_each_by_its_name(name, columns):
    found = load_features(f"elsewhere.processors.dijetsets:{name}")
    assert isinstance(found, Features)
    made = found.compute(columns)
    assert made.x.shape == (len(made.mass), len(found.features))
    assert np.isfinite(made.x).all()
    assert made.extras.keys() == {c.name for c in found.features.extras}


def test_baseline_is_the_feature_set_dijet(columns):
    made, base = DijetSet().compute(columns), Dijet().compute(columns)
    assert np.array_equal(made.x, base.x)
    assert np.array_equal(made.mass, base.mass)
    DijetSet().features.require_same(DIJET, "a", "b")


def test_columns_are_their_formulas(columns):
    events = pairs(columns)
    ratio = lambda j, a, b: j[a] / (j[b] + 1e-5)  # noqa: E731
    wanted = {
        "extended_1": lambda a, b: [
            a["mass"], b["mass"] - a["mass"],
            *(ratio(j, f"tau{n + 1}", f"tau{n}") for j in (a, b) for n in (1, 2, 3, 4)),
        ],
        "extended_2": lambda a, b: [
            a["mass"], b["mass"] - a["mass"], *(j[f"tau{n}"] for j in (a, b) for n in range(1, 6)),
        ],
        "extended_3": lambda a, b: [a["mass"], b["mass"] - a["mass"], *(j[t] for j in (a, b) for t in TAUS)],
        "cwola": lambda a, b: [
            v for j in (a, b)
            for v in (j["mass"], math.sqrt(j["tau1_b2"]) / (j["tau1"] + 1e-5), ratio(j, "tau2", "tau1"),
                      ratio(j, "tau3", "tau2"), ratio(j, "tau4", "tau3"), j["nTracks"])
        ],
        "quak": lambda a, b: [
            v for j in (a, b)
            for v in (j["mass"] / j["pt"], ratio(j, "tau2", "tau1"), ratio(j, "tau3", "tau2"), ratio(j, "tau4", "tau3"),
                      math.sqrt(ratio(j, "tau2", "tau1")) / (j["tau1"] + 1e-5), j["nConstituents"])
        ],
        "paws": lambda a, b: [
            v for j in (b, a)
            for v in (j["mass"] / 1000, j["tau2"] / j["tau1"] if j["tau1"] > 0 else 0.0,
                      j["tau3"] / j["tau2"] if j["tau2"] > 0 else 0.0)
        ],
    }  # fmt: skip
    for kind, row in wanted.items():
        made = DijetSet(kind).compute(columns)
        np.testing.assert_allclose(made.x, [row(a, b) for a, b, _ in events], rtol=3e-6, atol=1e-5)
        np.testing.assert_allclose(made.mass, [m for *_, m in events], rtol=1e-5)
    big = DijetSet("super")
    made = big.compute(columns)
    at = big.features.names.index("tau98_b05_2")
    np.testing.assert_allclose(
        made.x[:, at], [ratio(b, "tau9_b05", "tau8_b05") for _, b, _ in events], rtol=3e-6
    )


def test_distance_and_shift(columns):
    events = pairs(columns)
    made = DijetSet(delta_r=True, shift=0.1).compute(columns)
    base = Dijet().compute(columns)
    assert DijetSet(delta_r=True, shift=0.1).features.names[:2] == ("m_J1_shifted", "dm_J_shifted")
    np.testing.assert_allclose(
        made.x[:, :2] - base.x[:, :2], 0.1 * np.stack([base.mass] * 2, axis=1), rtol=1e-4
    )
    wanted = []
    for a, b, _ in events:
        across = math.remainder(a["phi"] - b["phi"], 2 * math.pi)
        wanted.append(math.hypot(a["eta"] - b["eta"], across))
    np.testing.assert_allclose(made.x[:, -1], wanted, rtol=1e-5)


def test_noise_is_normal_and_belongs_to_the_event():
    columns = columns_of(20_000, 4)
    keep = np.ones(20_000, bool)
    a, b = identity_normal(columns, keep, 0), identity_normal(columns, keep, 1)
    from scipy.stats import kstest

    assert kstest(a, "norm").pvalue > 0.01
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.025
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.025
    rows = np.random.default_rng(1).permutation(20_000)[:1000]
    shuffled = {k: v[rows] for k, v in columns.items()}
    noise = DijetSet(noise=2)
    whole, part = noise.compute(columns), noise.compute(shuffled)
    kept = Dijet().compute(columns).kept(20_000)
    position = np.full(20_000, -1)
    position[kept] = np.arange(kept.sum())
    assert np.array_equal(part.x, whole.x[position[rows][kept[rows]]])
    assert np.array_equal(whole.x[:, 4:], np.stack([a, b], axis=1)[kept].astype(np.float32))
    other = DijetSet(noise=1, noise_seed=7).compute(columns)
    assert not np.array_equal(other.x[:, 4], whole.x[:, 4])
    # Folds come from the same hash: noise must not know them.
    identity = make_identity(columns["run"], columns["luminosityBlock"], columns["event"], UUID(int=0))
    folds = fold_of(identity, 5, 0)
    assert max(abs(a[folds == k].mean()) for k in range(5)) < 4 / math.sqrt(4000)


def test_noise_without_identity_and_impossible_sets_are_refused(columns):
    bare = {k: v for k, v in columns.items() if k != "event"}
    with pytest.raises(InputError, match="'event'"):
        DijetSet(noise=1).compute(bare)
    DijetSet("extended_1").compute(bare)
    with pytest.raises(ConfigError, match="no dijet set 'extended'"):
        DijetSet("extended")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="to shift"):
        DijetSet("paws", shift=0.1)
    with pytest.raises(ConfigError, match="0 or more"):
        DijetSet(noise=-1)


def test_every_setting_is_another_definition():
    sets = [DijetSet(kind) for kind in SHAPES]
    sets += [
        DijetSet(noise=1),
        DijetSet(noise=2),
        DijetSet(noise=1, noise_seed=1),
        DijetSet(shift=0.1),
        DijetSet(delta_r=True),
    ]
    digests = [definition_digest(s) for s in sets]
    assert len(set(digests)) == len(digests)
    assert DijetSet("paws").features.name.endswith("heavy_first")


def test_an_event_without_two_jets_is_dropped_not_misread(columns):
    few = ak.to_numpy(ak.num(columns["FatJet_pt"])) < 2
    some = {k: v[few] for k, v in columns.items()}
    assert DijetSet("extended_3", noise=1).compute(some).x.shape == (0, 57)
