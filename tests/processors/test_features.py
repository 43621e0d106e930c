"""The kernels against loops over plain lists, and what a user's function may and may not return."""

import math

import awkward as ak
import numpy as np
import pytest
from elsewhere.errors import ConfigError, FeatureError
from elsewhere.events import Column, FeatureSet
from elsewhere.processors.features import Dijet, FunctionFeatures, Level1, definition_digest, load_features
from elsewhere.samples.nano import collection

from .conftest import dijet_columns


def flattened(raw):
    """Branches as the driver reads them: collections taken apart."""
    out = {}
    for name, values in raw.items():
        if isinstance(values, ak.Array):
            out.update({f"{name}_{f}": values[f] for f in values.fields})
        else:
            out[name] = values
    return out


def slow_dijet(event):
    """Features of one event from a list of jets (dictionaries), or None where it is cut away."""
    jets = sorted(event, key=lambda j: -j["pt"])[:2]
    if len(jets) < 2 or jets[0]["pt"] <= 1200 or any(abs(j["eta"]) >= 2.5 for j in jets):
        return None
    four = np.zeros(4)
    for j in jets:
        px, py = j["pt"] * math.cos(j["phi"]), j["pt"] * math.sin(j["phi"])
        pz = j["pt"] * math.sinh(j["eta"])
        four += [math.sqrt(px**2 + py**2 + pz**2 + j["mass"] ** 2), px, py, pz]
    light, heavy = sorted(jets, key=lambda j: j["mass"])
    tau = [j["tau2"] / (j["tau1"] + 1e-5) for j in (light, heavy)]
    m_jj = math.sqrt(max(four[0] ** 2 - (four[1:] ** 2).sum(), 0.0))
    return [light["mass"], heavy["mass"] - light["mass"], *tau, m_jj]


def test_dijet_features_are_those_of_a_loop_over_events():
    columns = flattened(dijet_columns(2000, 3))
    features = Dijet()
    made = features.compute(columns)
    names = [b.removeprefix("FatJet_") for b in features.branches]
    rows = ak.to_list(ak.zip({n: columns[f"FatJet_{n}"] for n in names}))
    want = [slow_dijet([{k: float(v) for k, v in jet.items()} for jet in event]) for event in rows]
    kept = np.array([w is not None for w in want])
    assert 100 < kept.sum() < 1900
    np.testing.assert_array_equal(made.kept(2000), kept)
    table = np.array([w for w in want if w is not None])
    np.testing.assert_allclose(made.x, table[:, :4], rtol=2e-6)
    np.testing.assert_allclose(made.mass, table[:, 4], rtol=1e-9)


def level1_columns(n, seed, bx=True):
    rng = np.random.default_rng(seed)
    out = {}
    for name, most in (("L1EG", 8), ("L1Mu", 5), ("L1Jet", 15)):
        counts = rng.integers(0, most, n)
        total = int(counts.sum())
        fields = {"pt": rng.permutation(total) + 1.0, "eta": rng.uniform(-5, 5, total), "phi": rng.uniform(-3, 3, total)}  # fmt: skip
        if bx:
            fields["bx"] = rng.integers(-1, 2, total)
        out[name] = collection(counts, **fields)
    kinds = np.tile([1, 2, 0], n)
    out["L1EtSum"] = collection(
        np.full(n, 3), pt=rng.uniform(0, 500, 3 * n), phi=rng.uniform(-3, 3, 3 * n), etSumType=kinds
    )
    return out


@pytest.mark.parametrize("bx", [True, False])
def test_level1_tensor_is_that_of_a_loop_over_events(bx):
    raw = level1_columns(400, 5, bx)
    made = Level1().compute(flattened(raw))
    assert made.x.shape == (400, 57)
    for i in range(400):
        sums = ak.to_list(raw["L1EtSum"][i])
        met = next(s for s in sums if s["etSumType"] == 2)
        row = [met["pt"], 0.0, met["phi"]]
        for name, most in (("L1EG", 4), ("L1Mu", 4), ("L1Jet", 10)):
            objects = [o for o in ak.to_list(raw[name][i]) if not bx or o["bx"] == 0]
            objects = sorted(objects, key=lambda o: -o["pt"])[:most]
            row += [v for o in objects for v in (o["pt"], o["eta"], o["phi"])] + [0.0] * 3 * (
                most - len(objects)
            )
        np.testing.assert_array_equal(made.x[i], np.array(row, np.float32))
        assert made.extras["HT"][i] == np.float32(next(s for s in sums if s["etSumType"] == 1)["pt"])


def test_met_is_zero_where_the_sum_is_missing():
    raw = flattened(level1_columns(3, 1))
    keep = ak.Array([[True, True, True], [True, False, True], [False, False, False]])
    for name in ("L1EtSum_pt", "L1EtSum_phi", "L1EtSum_etSumType"):
        raw[name] = raw[name][keep]
    made = Level1().compute(raw)
    assert made.x[0, 0] > 0
    assert made.x[1, 0] == made.x[2, 0] == 0


def function_features(function):
    return FunctionFeatures(
        FeatureSet("mine", (Column("a", "GeV", "one"),), Column("m", "GeV", "mass")), ("x",), function
    )


def test_a_function_makes_a_feature_set():
    made = function_features(lambda c: {"a": c["x"], "m": 2 * c["x"], "keep": c["x"] > 1}).compute(
        {"x": np.array([1.0, 2.0, 3.0])}
    )
    np.testing.assert_array_equal(made.x, [[2.0], [3.0]])
    np.testing.assert_array_equal(made.mass, [4.0, 6.0])


@pytest.mark.parametrize(
    ("gives", "message"),
    [({"a": [1.0], "m": [1.0]}, "no 'keep' mask"), ({"a": [1.0], "keep": [True]}, "no column 'm'")],
)
def test_a_function_that_leaves_something_out_is_named(gives, message):
    features = function_features(lambda c: {k: np.array(v) for k, v in gives.items()})
    with pytest.raises(FeatureError, match=message):
        features.compute({"x": np.ones(1)})


def test_an_unknown_feature_set_gets_the_nearest_name(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'dijet'"):
        load_features("dijets")
    with pytest.raises(ConfigError, match="cannot import 'not_there'"):
        load_features("not_there:FEATURES", tmp_path)
    (tmp_path / "mymodule.py").write_text("FEATURES = 3\n")
    with pytest.raises(ConfigError, match="not a feature definition"):
        load_features("mymodule:FEATURES", tmp_path)


def test_a_changed_function_is_another_definition(tmp_path):
    text = (
        "from elsewhere.events import Column, FeatureSet\n"
        "from elsewhere.processors.features import FunctionFeatures\n"
        "def f(c):\n    return {'a': c['x'], 'keep': c['x'] > %d}\n"
        "FEATURES = FunctionFeatures(FeatureSet('h', (Column('a', '', ''),)), ('x',), f)\n"
    )
    digests = []
    for cut in (1, 2, 1):
        (tmp_path / "changing.py").write_text(text % cut)
        digests.append(definition_digest(load_features("changing:FEATURES", tmp_path)))
    assert digests[0] == digests[2] != digests[1]
    assert definition_digest(Dijet()) == definition_digest(Dijet()) != definition_digest(Dijet(min_pt=500.0))
