import math
import shutil

import awkward as ak
import numpy as np
import pytest
from scipy.stats import gamma

pytest.importorskip("pythia8mc")

from elsewhere.errors import InputError
from elsewhere.samples import generate, towers, trigger
from elsewhere.samples.card import load_card
from elsewhere.samples.detector import ETA_CELLS, ETA_STEP, PHI_CELLS
from elsewhere.samples.level1 import make_crossings
from elsewhere.samples.particles import Particles


@pytest.fixture(scope="module")
def small_pools():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(towers, "pool_size", lambda card: (150, 60))
        yield


@pytest.fixture(scope="module")
def cache(small_pools, tmp_path_factory):
    return tmp_path_factory.mktemp("pools")


@pytest.fixture(scope="module")
def crossings(cache):
    return make_crossings(load_card("zerobias"), 3, 0, 400, cache)[0]


def same(one, other):
    return all(ak.array_equal(one[k], other[k]) for k in one)


def test_same_seed_same_crossings_from_a_pool_made_again(crossings, cache, tmp_path):
    again = make_crossings(load_card("zerobias"), 3, 0, 400, tmp_path)[0]
    assert same(crossings, again)
    pools = [next(folder.glob("pool-*.npz")).read_bytes() for folder in (cache, tmp_path)]
    assert pools[0] == pools[1]


def test_other_chunks_and_cards_differ(crossings, cache):
    card = load_card("zerobias")
    other = make_crossings(card, 3, 1, 400, cache)[0]
    assert not np.array_equal(other["Pileup_nPU"], crossings["Pileup_nPU"])
    assert not set(zip(other["luminosityBlock"], other["event"], strict=True)) & set(
        zip(crossings["luminosityBlock"], crossings["event"], strict=True)
    )
    assert card.digest != load_card("zerobias_train").digest


def test_pile_up_is_poisson_of_the_card(crossings):
    n = crossings["Pileup_nPU"]
    assert n.mean() == pytest.approx(50, abs=4 * math.sqrt(50 / 400))
    assert n.var() == pytest.approx(50, rel=4 * math.sqrt(2 / 400))
    assert crossings["genWeight"][n > 0].min() > 0


def test_objects_lie_on_the_hardware_grid(crossings):
    for name, eta, phi in (
        ("L1Jet", trigger.CALO_ETA, trigger.CALO_PHI),
        ("L1EG", trigger.CALO_ETA, trigger.CALO_PHI),
        ("L1Mu", trigger.MUON_ETA, trigger.MUON_PHI),
    ):
        found = crossings[name]
        for values, step in ((found.pt, 0.5), (found.eta, eta), (found.phi, phi)):
            counts = ak.to_numpy(ak.flatten(values)) / step
            np.testing.assert_allclose(counts, np.rint(counts), atol=2e-3)
        assert ak.all(abs(found.phi) <= np.float32(math.pi))
        assert ak.all(found.pt[:, 1:] <= found.pt[:, :-1])


def pool_of(card, seed, sizes="150-60"):
    return f"pool-{load_card(card).digest[:12]}-{seed}-{sizes}.npz"


def test_a_signal_is_seen(crossings, cache, tmp_path):
    shutil.copy(cache / pool_of("zerobias", 3), tmp_path / pool_of("ttbar", 3))  # saves making another
    top = make_crossings(load_card("ttbar"), 3, 0, 40, tmp_path)[0]
    assert np.median(ak.to_numpy(top["L1EtSum"].pt)[:, 0]) > 200


def test_a_damaged_pool_is_named(tmp_path, small_pools):
    (tmp_path / pool_of("zerobias", 3)).write_bytes(b"PK no pool")
    with pytest.raises(InputError, match="is not a pool"):
        towers.load_pools(load_card("zerobias"), 3, tmp_path)


@pytest.mark.parametrize("column", [0, 35, PHI_CELLS - 1])
def test_a_lone_deposit_is_one_jet_where_it_is(column):
    et = np.zeros((ETA_CELLS, PHI_CELLS))
    row = ETA_CELLS // 2 + 10
    et[row, column], et[row, (column + 1) % PHI_CELLS] = 60.0, 40.0
    out = np.zeros((60, 3))
    assert trigger.find_jets(et, out) == 1
    pt, eta, phi = out[0]
    assert pt == math.floor((trigger.JET_SCALE * 100 + trigger.JET_OFFSET) * 2) / 2
    assert eta == pytest.approx(10.5 * ETA_STEP, abs=trigger.CALO_ETA / 2 + 1e-9)
    true = -math.pi + (column + 0.5) * 2 * math.pi / PHI_CELLS
    assert abs(math.remainder(phi - true, 2 * math.pi)) <= trigger.CALO_PHI / 2 + 1e-9


def test_an_even_carpet_is_no_jet_and_is_taken_from_under_one():
    et = np.full((ETA_CELLS, PHI_CELLS), 0.5)
    out = np.zeros((60, 3))
    et[58, 20] += 80.0
    assert trigger.find_jets(et, out) == 1
    assert out[0, 0] == pytest.approx(trigger.JET_SCALE * 80 + trigger.JET_OFFSET, abs=0.5)


def test_equal_towers_make_one_jet_not_two():
    et = np.zeros((ETA_CELLS, PHI_CELLS))
    et[60, 10] = et[60, 12] = et[62, 10] = 40.0
    assert trigger.find_jets(et, np.zeros((60, 3))) == 1


def test_photon_passes_and_a_hadron_does_not():
    both, out = np.zeros((ETA_CELLS, PHI_CELLS, 2)), np.zeros((100, 3))
    both[60, 30, 0], both[60, 31, 0] = 30.0, 10.0
    assert trigger.find_eg(both, out) == 1
    assert out[0, 0] == 40.0
    both[60, 30, 1] = 20.0
    assert trigger.find_eg(both, out) == 0


def test_sums_balance_a_deposit_and_saturate():
    et = np.zeros((ETA_CELLS, PHI_CELLS))
    et[58, 18] = 50.0
    htt, met, phi = trigger.find_sums(et, np.array([[50.0, 0.0, 0.0], [29.5, 0.0, 0.0], [80.0, 3.0, 0.0]]))
    assert (htt, met) == (50.0, 50.0)
    deposit = -math.pi + 18.5 * 2 * math.pi / PHI_CELLS
    assert abs(math.remainder(phi - deposit, 2 * math.pi)) == pytest.approx(math.pi, abs=trigger.CALO_PHI)
    et[58, 18] = 5000.0
    assert trigger.find_sums(et, np.zeros((0, 3)))[1] == trigger.MAX_SUM


def test_muon_resolution_and_efficiency():
    true = np.tile([20.0, 1.0, 0.3, -1.0], (60, 1))
    trials = []
    for _ in range(300):
        out = np.zeros((60, 4))
        trials.append((trigger.find_muons(true, out), out[: trigger.MUONS].copy()))
    leading = np.array([t[1][0, 0] for t in trials])
    assert leading.min() > 20
    assert all(t[0] == trigger.MUONS for t in trials)
    singles = []
    for _ in range(4000):
        out = np.zeros((1, 4))
        singles.append(out[0, 0] if trigger.find_muons(true[:1], out) else 0.0)
    found = np.array(singles)
    assert np.mean(found > 0) == pytest.approx(trigger.MUON_EFFICIENCY, abs=0.015)
    assert np.median(found[found > 0]) == pytest.approx(20, rel=0.04)
    low, high = np.percentile(found[found > 0], [16, 50])
    assert math.log(high / low) == pytest.approx(trigger.MUON_RESOLUTION, abs=0.03)


def test_order_of_chunks_does_not_matter(crossings, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "CHUNK", 20)
    for who, order in (("one", (0, 1)), ("two", (1, 0))):
        (tmp_path / who).mkdir()
        shutil.copy(cache / pool_of("zerobias", 3), tmp_path / who)
        for chunk in order:
            generate.make_chunk("zerobias", 3, chunk, str(tmp_path / who))
    made = sorted((tmp_path / "one").glob("zerobias*.parquet"))
    assert len(made) == 2
    for path in made:
        assert ak.array_equal(ak.from_parquet(path), ak.from_parquet(tmp_path / "two" / path.name))


def test_hadron_response_has_its_mean_and_width_and_no_long_tail():
    """Against the gamma distribution's own moments and quantile; a log-normal of the same moments has 1.5 times that quantile."""
    n, energy = 40_000, 2.0
    sigma = math.hypot(1.5 * math.sqrt(energy), 0.05 * energy)
    out = np.array([towers._calorimeter_response(energy, 0.0, False) for _ in range(n)])
    assert out.mean() == pytest.approx(energy, abs=5 * sigma / math.sqrt(n))
    assert out.std() == pytest.approx(sigma, rel=0.04)
    expected = gamma.ppf(0.9995, (energy / sigma) ** 2, scale=sigma**2 / energy)
    assert np.quantile(out, 0.9995) == pytest.approx(expected, rel=0.2)


def test_long_lived_mesons_give_muons_as_often_as_they_decay():
    n = 200_000
    kaons = Particles(
        np.arange(n + 1),
        np.full(n, 5.0),
        np.zeros(n),
        np.zeros(n),
        np.full(n, 0.4937),
        np.full(n, 321, np.int32),
    )
    muons = towers.deposit(kaons, np.ones(n), np.arange(n)).muon
    decays = 0.636 * (1 - math.exp(-0.4937 * 1.29 / (5.0 * 3.71)))
    above_two_gev = 1 - (0.4 - 0.046) / (1 - 0.046)
    assert len(muons) / n == pytest.approx(decays * above_two_gev, rel=0.06)
