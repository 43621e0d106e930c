"""Energy scale and resolution: analytic answers, balance with missing energy, random numbers that are the event's own."""

import math

import awkward as ak
import cloudpickle
import numpy as np
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.events import identity_hash
from elsewhere.processors.features import Dijet
from elsewhere.processors.nuisances.corrections import Correction
from elsewhere.processors.nuisances.jets import (
    SMALLEST_PT,
    JetEnergyResolution,
    JetEnergyScale,
    smearing_kernel,
)
from scipy.special import ndtri

from .conftest import flat, identities, jagged, jet_columns

SCALE = {"JetEta": "eta", "JetPt": "pt"}


def momentum(columns, jets: str, met: str) -> tuple[np.ndarray, np.ndarray]:
    """Vector sum of jets and missing energy, from the stored numbers in double precision."""
    pt, phi = (ak.values_astype(columns[f"{jets}_{k}"], "float64") for k in ("pt", "phi"))
    m, a = (columns[f"{met}_{k}"].astype(np.float64) for k in ("pt", "phi"))
    return (
        ak.to_numpy(ak.sum(pt * np.cos(phi), axis=1)) + m * np.cos(a),
        ak.to_numpy(ak.sum(pt * np.sin(phi), axis=1)) + m * np.sin(a),
    )


@pytest.mark.parametrize("nu", [1.0, -1.0, 0.5])
def test_a_constant_scale_moves_the_dijet_mass_by_just_that(nu):
    columns = jet_columns(jets="FatJet")
    moved = JetEnergyScale("jes", "FatJet", 0.02).shift(columns, nu, identities(400))
    assert set(moved) == {"FatJet_pt", "FatJet_mass", "FatJet_msoftdrop"}
    features = Dijet(min_pt=0.0, max_eta=5.0)
    before, after = features.compute(columns), features.compute({**columns, **moved})
    assert len(before.mass) > 200
    np.testing.assert_allclose(after.mass, before.mass * (1 + 0.02 * nu), rtol=3e-7)
    np.testing.assert_allclose(after.x[:, 0], before.x[:, 0] * (1 + 0.02 * nu), rtol=3e-7)


def test_at_zero_every_bit_stays():
    columns = jet_columns()
    moved = JetEnergyScale("jes", "Jet", 0.02, met="PuppiMET").shift(columns, 0.0, identities(400))
    assert set(moved) == {"Jet_pt", "Jet_mass", "PuppiMET_pt", "PuppiMET_phi"}
    for branch, values in moved.items():
        old, new = ak.to_layout(columns[branch]), ak.to_layout(values)
        assert ak.to_buffers(old)[2]["node0-data" if "MET" in branch else "node1-data"].tobytes() == \
            ak.to_buffers(new)[2]["node0-data" if "MET" in branch else "node1-data"].tobytes()  # fmt: skip
        assert ak.type(old) == ak.type(new)


def test_up_and_down_are_one_function():
    columns, jes = jet_columns(), JetEnergyScale("jes", "Jet", 0.03)
    up, down = (flat(jes.shift(columns, nu, identities(400))["Jet_pt"]) for nu in (1.0, -1.0))
    np.testing.assert_allclose(up + down, 2 * flat(columns["Jet_pt"]), rtol=2e-7)
    np.testing.assert_allclose(up - down, 0.06 * flat(columns["Jet_pt"]), rtol=1e-5)


@pytest.mark.parametrize("nu", [1.0, -1.0, 3.0])
@pytest.mark.parametrize("threshold", [-1.0, 50.0])
def test_jets_and_missing_energy_keep_their_sum(nu, threshold):
    columns = jet_columns()
    for nuisance in (
        JetEnergyScale("jes", "Jet", 0.05, "PuppiMET", threshold),
        JetEnergyResolution("jer", "Jet", 1.2, 0.1, 0.15, met="PuppiMET", met_threshold=threshold),
    ):
        moved = {**columns, **nuisance.shift(columns, nu, identities(400))}
        hard = columns["Jet_pt"] > threshold
        assert ak.any(~hard) == (threshold > 0)
        parts = [{k: v[hard] if k.startswith("Jet") else v for k, v in c.items()} for c in (columns, moved)]
        for old, new in zip(*(momentum(p, "Jet", "PuppiMET") for p in parts), strict=True):
            np.testing.assert_allclose(new, old, atol=1e-3)
        assert not np.array_equal(moved["PuppiMET_pt"], columns["PuppiMET_pt"])
        assert moved["PuppiMET_phi"].dtype == np.float32
        assert (
            (moved["PuppiMET_phi"] >= -np.float32(np.pi)) & (moved["PuppiMET_phi"] < np.float32(np.pi))
        ).all()


def test_missing_energy_moves_in_proportion_to_a_small_nu():
    columns, jes = jet_columns(), JetEnergyScale("jes", "Jet", 0.01, "PuppiMET")
    x0, y0 = (
        columns["PuppiMET_pt"].astype(float) * f(columns["PuppiMET_phi"].astype(float))
        for f in (np.cos, np.sin)
    )
    change = []
    for nu in (0.25, 0.5):
        moved = jes.shift(columns, nu, identities(400))
        pt, phi = moved["PuppiMET_pt"].astype(float), moved["PuppiMET_phi"].astype(float)
        change.append(np.concatenate([pt * np.cos(phi) - x0, pt * np.sin(phi) - y0]))
    np.testing.assert_allclose(change[1], 2 * change[0], atol=2e-4)
    assert np.abs(change[1]).max() > 0.5


def test_level1_missing_energy_is_the_entry_of_its_type():
    columns = jet_columns(3, jets="L1Jet", most=2)
    columns["L1Jet_pt"] = ak.Array([[100.0, 60.0], [50.0], [40.0]])
    columns["L1Jet_phi"] = ak.Array([[0.0, np.pi / 2], [0.0], [0.0]])
    columns["L1Jet_mass"] = ak.Array([[0.0, 0.0], [0.0], [0.0]])
    columns["L1Jet_bx"] = ak.Array([[0, -1], [0], [0]])
    columns["L1EtSum_etSumType"] = ak.Array([[1, 2, 2], [2, 2], [1]])
    columns["L1EtSum_bx"] = ak.Array([[0, 0, 0], [1, 0], [0]])
    columns["L1EtSum_pt"] = ak.Array([[500.0, 30.0, 7.0], [20.0, 25.0], [9.0]])
    columns["L1EtSum_phi"] = ak.Array([[0.0, 0.0, 1.0], [0.0, 0.0], [0.0]])
    jes = JetEnergyScale("l1", "L1Jet", 0.1, "L1EtSum")
    moved = jes.shift(columns, 1.0, identities(3))
    # The jet of the crossing before is scaled, but the missing energy does not know it.
    np.testing.assert_allclose(flat(moved["L1Jet_pt"]), [110.0, 66.0, 55.0, 44.0])
    assert moved["L1EtSum_pt"].tolist() == [
        [500.0, pytest.approx(20.0), 7.0],
        [20.0, pytest.approx(20.0)],
        [9.0],
    ]
    assert moved["L1EtSum_phi"].tolist() == [[0.0, pytest.approx(0.0), 1.0], [0.0, pytest.approx(0.0)], [0.0]]
    assert set(jes.branches) == {"L1Jet_pt", "L1Jet_phi", "L1EtSum_pt", "L1EtSum_phi", "L1EtSum_etSumType"}
    assert {"L1Jet_bx", "L1EtSum_bx", "L1Jet_mass"} <= set(jes.optional)
    del columns["L1Jet_bx"], columns["L1EtSum_bx"]
    moved = jes.shift(columns, 1.0, identities(3))
    assert moved["L1EtSum_pt"].tolist()[0] == [500.0, pytest.approx(np.hypot(20, 6)), 7.0]
    assert moved["L1EtSum_pt"].tolist()[1] == [pytest.approx(15.0), 25.0]


def test_an_evaluated_scale_is_the_evaluator_called_jet_by_jet(jec):
    source = Correction(str(jec), "Total", SCALE)
    jes = JetEnergyScale("jes", "Jet", source)
    columns = jet_columns(100)
    assert set(jes.branches) == {"Jet_pt", "Jet_eta"}
    for nu in (1.0, -0.7):
        moved = flat(jes.shift(columns, nu, identities(100))["Jet_pt"])
        loop = [
            pt * (1 + nu * source.evaluator.evaluate(float(eta), float(pt)))
            for pt, eta in zip(flat(columns["Jet_pt"]), flat(columns["Jet_eta"]), strict=True)
        ]
        np.testing.assert_allclose(moved, loop, rtol=2e-7)
    np.testing.assert_array_equal(
        flat(jes.shift(columns, 0.0, identities(100))["Jet_mass"]), flat(columns["Jet_mass"])
    )


def mix(z: int) -> int:
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def reference(columns, s, r, stream, index=None, generated=None) -> list[float]:
    """The smearing in plain Python: arbitrary-size integers and scipy's normal quantile."""
    out = []
    for i, jets in enumerate(ak.to_list(columns["Jet_pt"])):
        for k, pt in enumerate(jets):
            g = index[i][k] if index is not None else -1
            if 0 <= g < len(generated[i]) if generated is not None else False:
                excess = pt - generated[i][g]
                if abs(excess) < 3 * r * pt:
                    out.append(max(1 + (s - 1) * excess / pt, SMALLEST_PT / pt))
                    continue
            bits = mix((int(stream[i]) + (k + 1) * 0x9E3779B97F4A7C15) % 2**64)
            normal = float(ndtri(((bits >> 11) + 0.5) / 2**53))
            out.append(max(1 + r * math.sqrt(max(s * s - 1, 0)) * normal, SMALLEST_PT / pt))
    return out


def stream_of(nuisance, n: int) -> np.ndarray:
    """What the event's own sequence must start from: the identity, the seed and the collection."""
    import zlib

    return identity_hash(identities(n), nuisance.seed + (zlib.crc32(nuisance.jets.encode()) << 32))


@pytest.mark.parametrize(("s", "r"), [(1.3, 0.15), (2.5, 0.9), (0.9, 0.2), (1.0, 0.2)])
def test_the_kernel_is_the_plain_python(s, r):
    columns, rng = jet_columns(300), np.random.default_rng(5)
    counts = ak.to_numpy(ak.num(columns["Jet_pt"]))
    gen_counts = rng.integers(0, 6, 300)
    generated = jagged(gen_counts, (rng.exponential(60, gen_counts.sum()) + 10).astype(np.float32))
    index = jagged(counts, rng.integers(-1, 7, counts.sum()).astype(np.int16))
    jer = JetEnergyResolution("jer", scale_factor=s, uncertainty=0.0, resolution=r, seed=4)
    plain = jer.factors(columns, 0.0, identities(300))
    np.testing.assert_allclose(plain, reference(columns, s, r, stream_of(jer, 300)), rtol=1e-12)
    columns |= {"Jet_genJetIdx": index, "GenJet_pt": generated}
    matched = jer.factors(columns, 0.0, identities(300))
    expected = reference(columns, s, r, stream_of(jer, 300), index.tolist(), generated.tolist())
    np.testing.assert_allclose(matched, expected, rtol=1e-12)
    assert 0 < np.sum(matched != plain) < len(plain) or s == 1.0
    if s == 1.0:
        np.testing.assert_array_equal(matched, 1.0)


def test_normal_numbers_reach_both_tails():
    """Streams whose first output is known: the hash's inverse is not needed, only many of them."""
    stream = identity_hash(identities(400_000))
    offsets = np.arange(400_001)
    factor = smearing_kernel(
        offsets, np.full(400_000, 1e9), np.array([math.sqrt(2)]), np.array([1e-3]), stream,
        np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(0),
    )  # fmt: skip
    bits = np.array([mix((int(h) + 0x9E3779B97F4A7C15) % 2**64) for h in stream[:20_000]], np.uint64)
    np.testing.assert_allclose(
        (factor[:20_000] - 1) / 1e-3, ndtri(((bits >> np.uint64(11)) + 0.5) / 2**53), atol=1e-11
    )
    normal = (factor - 1) / 1e-3
    error = 1 / math.sqrt(len(normal))
    assert abs(normal.mean()) < 4 * error
    assert abs(normal.var() - 1) < 4 * math.sqrt(2) * error
    assert abs((normal**3).mean()) < 4 * math.sqrt(15) * error
    assert abs((normal**4).mean() - 3) < 4 * math.sqrt(96) * error
    assert normal.max() > 4.2
    assert normal.min() < -4.2


def test_jets_of_one_event_and_of_two_collections_fluctuate_on_their_own():
    n = 60_000
    pt = ak.to_regular(ak.Array(np.full((n, 2), 100.0)))
    settings = {"scale_factor": math.sqrt(2), "uncertainty": 0.0, "resolution": 0.01}
    small = (
        JetEnergyResolution("a", "Jet", **settings).factors({"Jet_pt": pt}, 0.0, identities(n)).reshape(n, 2)
    )
    large = (
        JetEnergyResolution("a", "FatJet", **settings)
        .factors({"FatJet_pt": pt}, 0.0, identities(n))
        .reshape(n, 2)
    )
    other = (
        JetEnergyResolution("a", "Jet", seed=1, **settings)
        .factors({"Jet_pt": pt}, 0.0, identities(n))
        .reshape(n, 2)
    )
    for a, b in (
        (small[:, 0], small[:, 1]),
        (small[:, 0], large[:, 0]),
        (small[:-1, 0], small[1:, 0]),
        (small[:, 0], other[:, 0]),
    ):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(n)


def test_the_resolution_becomes_that_of_the_scale_factor():
    """Jets smeared by r around their truth come out with s r, by the stochastic and by the matched way."""
    n, r, s = 200_000, 0.1, 1.4
    rng = np.random.default_rng(3)
    pt = 100.0 * (1 + r * rng.normal(size=n))
    columns = {"Jet_pt": ak.unflatten(pt, np.ones(n, int))}
    truth = {"GenJet_pt": ak.unflatten(np.full(n, 100.0), np.ones(n, int)), "Jet_genJetIdx": ak.unflatten(np.zeros(n, int), np.ones(n, int))}  # fmt: skip
    for nu in (0.0, 1.0):
        # With generator jets the resolution only says what is too far to be a match: here nothing is.
        for extra, size in (({}, r), (truth, 3 * r)):
            jer = JetEnergyResolution("jer", scale_factor=s, uncertainty=0.1, resolution=size)
            width = np.std(flat(jer.shift({**columns, **extra}, nu, identities(n))["Jet_pt"]))
            assert width == pytest.approx(100 * r * (s + 0.1 * nu), rel=0.01)


def test_random_numbers_do_not_know_chunks_or_nu():
    columns = jet_columns(300, met="MET")
    jer = JetEnergyResolution("jer", "Jet", 1.2, 0.1, 0.1, met="MET")
    whole = jer.shift(columns, 1.0, identities(300))
    parts = []
    for start, stop in ((0, 1), (1, 130), (130, 300)):
        piece = {k: v[start:stop] for k, v in columns.items()}
        parts.append(jer.shift(piece, 1.0, identities(300)[start:stop]))
    for branch in whole:
        joined = ak.concatenate([p[branch] for p in parts])
        assert ak.to_list(joined) == ak.to_list(whole[branch])
    back = np.arange(300)[::-1]
    turned = jer.shift({k: v[back] for k, v in columns.items()}, 1.0, identities(300)[back])
    assert turned["Jet_pt"][back].tolist() == whole["Jet_pt"].tolist()
    normals = []
    for nu in (-1.0, 0.5, 2.0):
        s = 1.2 + 0.1 * nu
        normals.append((jer.factors(columns, nu, identities(300)) - 1) / (0.1 * math.sqrt(s * s - 1)))
    inside = normals[2] > -5
    np.testing.assert_allclose(normals[0][inside], normals[1][inside], rtol=1e-9)
    np.testing.assert_allclose(normals[0][inside], normals[2][inside], rtol=1e-9)


def test_an_evaluated_resolution_is_the_evaluators_called_jet_by_jet(jec):
    columns = jet_columns(200)
    scale = Correction(
        str(jec),
        "ScaleFactor",
        {"JetEta": "eta", "systematic": {"nominal": "nom", "up": "up", "down": "down"}},
    )
    size = Correction(str(jec), "PtResolution", {**SCALE, "Rho": "event.rho"})
    jer = JetEnergyResolution("jer", scale_factor=scale, resolution=size, match=False)
    assert set(jer.branches) == {"Jet_pt", "Jet_eta", "rho"}
    assert not {"GenJet_pt", "Jet_genJetIdx"} & set(jer.optional)
    stream = stream_of(jer, 200)
    for nu, side in ((0.0, "nom"), (1.0, "up"), (-1.0, "down"), (0.5, "up")):
        made, at = jer.factors(columns, nu, identities(200)), 0
        for i, (pts, etas) in enumerate(
            zip(columns["Jet_pt"].tolist(), columns["Jet_eta"].tolist(), strict=True)
        ):
            for k, (pt, eta) in enumerate(zip(pts, etas, strict=True)):
                nominal = scale.evaluator.evaluate(eta, "nom")
                s = nominal + abs(nu) * (scale.evaluator.evaluate(eta, side) - nominal)
                r = size.evaluator.evaluate(eta, pt, float(columns["rho"][i]))
                bits = mix((int(stream[i]) + (k + 1) * 0x9E3779B97F4A7C15) % 2**64)
                expected = 1 + r * math.sqrt(s * s - 1) * float(ndtri(((bits >> 11) + 0.5) / 2**53))
                assert made[at] == pytest.approx(max(expected, SMALLEST_PT / pt), rel=1e-10)
                at += 1


def test_no_jet_is_smeared_away():
    n = 2000
    columns = {"Jet_pt": ak.unflatten(np.full(n, 20.0), np.ones(n, int))}
    jer = JetEnergyResolution("jer", scale_factor=3.0, uncertainty=0.0, resolution=1.0)
    pt = flat(jer.shift(columns, 0.0, identities(n))["Jet_pt"])
    assert pt.min() == pytest.approx(SMALLEST_PT)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda jec: JetEnergyScale("jes", uncertainty=-0.1), "uncertainty is -0.1, expected a number of 0 or more"),
        (lambda jec: JetEnergyResolution("jer"), "constant scale_factor needs an 'uncertainty'"),
        (lambda jec: JetEnergyResolution("jer", resolution=float("nan"), uncertainty=0.1), "resolution is nan"),
        (lambda jec: JetEnergyResolution("jer", "Jet", Correction(str(jec), "ScaleFactor", {}), 0.1), "its own up and down"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(make, text, jec):
    with pytest.raises(ConfigError, match=text):
        make(jec)


def test_damaged_columns_are_refused():
    columns = jet_columns(20)
    jes = JetEnergyScale("jes", met="PuppiMET")
    with pytest.raises(InputError, match="Jet_mass and Jet_pt have different numbers of objects"):
        jes.shift({**columns, "Jet_mass": columns["Jet_mass"][:, 1:]}, 1.0, identities(20))
    with pytest.raises(InputError, match="Jet_pt is int64, expected a floating type"):
        jes.shift({**columns, "Jet_pt": ak.values_astype(columns["Jet_pt"], "int64")}, 1.0, identities(20))
    with pytest.raises(InputError, match="'jes' needs branch PuppiMET_phi"):
        jes.shift({k: v for k, v in columns.items() if k != "PuppiMET_phi"}, 1.0, identities(20))


def test_a_batch_without_events_or_jets_is_fine():
    columns = {k: v[:0] for k, v in jet_columns(10).items()}
    for nuisance in (
        JetEnergyScale("a", met="PuppiMET"),
        JetEnergyResolution("b", uncertainty=0.1, met="PuppiMET"),
    ):
        moved = nuisance.shift(columns, 1.0, identities(0))
        assert all(len(v) == 0 for v in moved.values())
    empty = {"Jet_pt": ak.unflatten(np.zeros(0, np.float32), np.zeros(2, int))}
    assert JetEnergyResolution("b", uncertainty=0.1).shift(empty, 1.0, identities(2))["Jet_pt"].tolist() == [
        [],
        [],
    ]


def test_travelling_changes_nothing(jec):
    columns = jet_columns(30)
    source = Correction(str(jec), "Total", SCALE)
    jes = JetEnergyScale("jes", uncertainty=source)
    here = jes.shift(columns, 1.0, identities(30))
    packed = cloudpickle.dumps(jes)
    assert len(packed) < 2000
    there = cloudpickle.loads(packed)
    assert there == jes
    assert there.shift(columns, 1.0, identities(30))["Jet_pt"].tolist() == here["Jet_pt"].tolist()
