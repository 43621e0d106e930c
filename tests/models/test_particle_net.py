"""ParticleNet against a slow reference written from its formula, its symmetries, and what an empty slot must not do."""

from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
import torch
from elsewhere.errors import ConfigError, FeatureError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.models.mass_matching import MassMatching
from elsewhere.models.networks.classifier import build_classifier, exposed_cross_entropy
from elsewhere.models.networks.dense import load_weights
from elsewhere.models.networks.particle_net import (
    ROWS,
    ParticleNet,
    build_particle_net,
    evaluate_jets,
    jet_inputs,
    jet_numbers,
    nearest,
    statistics,
)
from elsewhere.models.scores.classifier_anomaly import ClassifierAnomaly
from elsewhere.models.store import load, save
from scipy.stats import rankdata

from .test_contract import broken_promises

SLOTS = 12
SIZES = ParticleNet(neighbours=3, channels=(6, 5), width=7, dropout=0.0)
FEATURES = FeatureSet(
    "constituents",
    tuple(Column(f"Cand{i}_{part}", "", "") for i in range(SLOTS) for part in ("pt", "eta", "phi")),
    Column("m_J", "GeV", "mass"),
)


def tables(counts, seed=0, junk=False):
    """Jets of so many constituents, (n, 3 SLOTS); ``junk``: numbers where there is none."""
    rng = np.random.default_rng(seed)
    n = len(counts)
    t = np.stack([rng.exponential(20, (n, SLOTS)) + 1, *rng.normal(0, 0.3, (2, n, SLOTS))], axis=2)
    empty = np.arange(SLOTS) >= np.array(counts)[:, None]
    t[empty] = 0
    if junk:
        t[empty] = np.random.default_rng(9).normal(0, 100, (empty.sum(), 3))
        t[empty, 0] = 0  # where there is no pT there is no constituent
    return t.reshape(n, -1).astype(np.float32)


def config(frozen=False, **changes):
    sizes = asdict(replace(SIZES, **changes))
    return {
        "sizes": [3 * SLOTS, sizes["width"]], "classes": 3, "logits": "linear", "seed": 4, "particle_net": sizes,
        "frozen": frozen, "rows": 64,
    }  # fmt: skip


def trained(**changes):
    """A network with weights and statistics that no layer has by chance, frozen."""
    rng = np.random.default_rng(2)
    network = build_classifier(config(**changes))
    weights = {k: rng.normal(0, 0.5, p.shape).astype(np.float32) for k, p in network.named_parameters()}
    state = {k: torch.from_numpy(v) for k, v in weights.items()}
    network.load_state_dict(state, strict=False)
    found = statistics(network, [tables([SLOTS] * 50 + [2, 5, 9], seed=s) for s in (5, 6)])
    return load_weights(build_classifier(config(frozen=True, **changes)), weights | found)


def posed(cloud):
    """Angles along a jet's principal axes in units of its size, and the size, by an eigendecomposition."""
    pt, eta, phi = np.array(cloud).T
    apart = np.stack([v - np.average(v, weights=pt) for v in (eta, phi)])
    _, axes = np.linalg.eigh(np.cov(apart, aweights=pt, ddof=0) if len(pt) > 1 else np.eye(2))
    along = axes[:, ::-1].T @ apart  # the longest first
    size = max(0.01, np.average((apart**2).sum(axis=0), weights=pt) ** 0.5)
    along *= np.where(np.average(along**3, axis=1, weights=pt) < 0, -1, 1)[:, None]
    return along / size, size


def numbers(cloud):
    """What is known of a whole jet, pair by pair and triple by triple."""
    pt, places = np.array(cloud)[:, 0], np.array(cloud)[:, 1:]
    z, n = pt / pt.sum(), len(pt)
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    logs = []
    for power in (0.5, 1, 2):
        two = [z[i] * z[j] * apart[i, j] ** power for i, j in combinations(range(n), 2)]
        three = [
            z[i] * z[j] * z[k] * (apart[i, j] * apart[j, k] * apart[i, k]) ** power
            for i, j, k in combinations(range(n), 3)
        ]
        e2, e3 = max(sum(two), 1e-12), max(sum(three), 1e-12)
        logs += [np.log(e2), np.log(e3 / e2**2), np.log(e3 / e2**3)]
    others = [*((z * np.hypot(*places.T) ** power).sum() for power in (0.5, 1)), pt.sum()]
    largest = sorted([*z, 0, 0, 0], reverse=True)[:3]
    counts = n, (z > 0.01).sum()
    return np.array([*logs, *np.log(np.maximum(others, 1e-12)), (z**2).sum() ** 0.5, *largest, *counts])


def by_hand(network, row):
    """One jet in NumPy, constituent by constituent and edge by edge, by the formulas."""
    w = {k: v.numpy().astype(float) for k, v in network.state_dict().items()}

    def norm(x, name):
        root = np.sqrt(w[f"{name}.variance"] + 1e-5)
        return (x - w[f"{name}.mean"]) / root * w[f"{name}.weight"] + w[f"{name}.bias"]

    cloud = [c for c in row.reshape(-1, 3).astype(float) if c[0] > 0]
    turned = len(w["body.norm.mean"]) == 8
    angles, size = posed(cloud) if cloud and turned else (np.array([c[1:] for c in cloud]).T, None)
    if cloud:
        energy = sum(pt * np.cosh(eta) for pt, eta, _ in cloud)
        whole = np.hypot(sum(pt * np.cos(f) for pt, _, f in cloud), sum(pt * np.sin(f) for pt, _, f in cloud))
    x = [
        norm(
            np.array([
                *angle, np.log(pt), np.log(pt * np.cosh(eta)), np.log(pt / whole),
                np.log(pt * np.cosh(eta) / energy), np.hypot(*angle), *([np.log(size)] if turned else []),
            ]),
            "body.norm",
        )
        for (pt, eta, _), angle in zip(cloud, np.transpose(angles), strict=True)
    ]  # fmt: skip
    places = [c[1:] for c in cloud]
    for b in range(len(SIZES.channels)):
        name, out = f"body.blocks.{b}", []
        for i, mine in enumerate(x):
            others = sorted((((places[i] - p) ** 2).sum(), j) for j, p in enumerate(places) if j != i)
            edges = []
            for _, j in others[: SIZES.neighbours]:
                e = np.concatenate([mine, x[j] - mine])
                for layer in range(3):
                    e = norm(w[f"{name}.layers.{layer}.weight"] @ e, f"{name}.norms.{layer}")
                    e = np.maximum(e, 0)
                edges.append(e)
            mean = np.mean(edges, axis=0) if edges else 0.0
            shortcut = norm(w[f"{name}.shortcut.weight"] @ mine, f"{name}.shortcut_norm")
            out.append(np.maximum(mean + shortcut, 0))
        x = places = out
    pooled = np.mean(x, axis=0) if x else np.zeros(SIZES.channels[-1])
    if "body.numbers_norm.mean" in w:
        pooled = np.concatenate(
            [pooled, norm(numbers(cloud), "body.numbers_norm") if cloud else np.zeros(18)]
        )
    h = np.maximum(w["body.dense.weight"] @ pooled + w["body.dense.bias"], 0)
    return np.concatenate([w["head.weight"] @ h + w["head.bias"], h])


#: Full jets, ones with fewer constituents than neighbours and one more, a single one, and none.
COUNTS = [SLOTS, SLOTS, 7, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("more", [{}, {"posed": True}, {"numbers": True}])
def test_the_network_is_its_formula(more):
    network, x = trained(**more), tables(COUNTS)
    slow = np.array([by_hand(network, row) for row in x])
    assert np.allclose(evaluate_jets(network, x), slow, rtol=1e-4, atol=1e-4)
    assert len(np.unique(slow.round(6), axis=0)) == len(COUNTS)


def test_the_published_size():
    """1902.08570 counts 366,160 parameters, with two classes and no more normalisations than it draws."""
    network = build_classifier({**config(), **{"sizes": [300, 256], "particle_net": asdict(ParticleNet())}})
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(366_160, rel=0.002)


def test_the_order_of_constituents_changes_nothing():
    network, x = trained(), tables([SLOTS] * 20 + COUNTS)
    order = np.random.default_rng(3).permutation(SLOTS)
    moved = x.reshape(-1, SLOTS, 3)[:, order].reshape(x.shape)
    assert np.allclose(evaluate_jets(network, moved), evaluate_jets(network, x), rtol=1e-4, atol=1e-4)
    other = x.reshape(-1, SLOTS, 3).copy()
    other[:, :, 1] = other[:, order, 1]  # the same numbers on other constituents are another jet
    there = evaluate_jets(network, other.reshape(x.shape))
    assert not np.allclose(there[:20], evaluate_jets(network, x)[:20], atol=1e-2)


def test_empty_slots_change_nothing_in_training_either():
    network = build_particle_net(config(), activated=True)
    counts = COUNTS * 3
    plain, junk = (torch.from_numpy(tables(counts, junk=j)) for j in (False, True))
    assert not torch.equal(plain, junk)
    assert torch.equal(network(plain), network(junk))
    # nor does it matter how many of them there are
    more = torch.zeros(len(counts), 3 * (SLOTS + 5))
    more[:, : 3 * SLOTS] = plain
    assert torch.allclose(network(plain), network(more), rtol=1e-4, atol=1e-5)


def test_what_is_seen_of_a_constituent():
    x = torch.tensor([[3.0, 0.2, -0.1, 1.0, -0.4, 0.3, 0.0, 5.0, 5.0], [1e6, 1e6, 1e6, 0, 0, 0, 0, 0, 0]])
    seen, places, there = jet_inputs(x)
    assert there.tolist() == [[True, True, False], [True, False, False]]
    energy = [3 * np.cosh(0.2), np.cosh(0.4)]
    whole = np.hypot(3 * np.cos(0.1) + np.cos(0.3), -3 * np.sin(0.1) + np.sin(0.3))
    first = [
        0.2,
        -0.1,
        np.log(3),
        np.log(energy[0]),
        np.log(3 / whole),
        np.log(energy[0] / sum(energy)),
        0.05**0.5,
    ]
    assert np.allclose(seen[0, 0], first, rtol=1e-5)
    assert np.allclose(places[0], [[0.2, -0.1], [-0.4, 0.3], [0, 0]])
    assert (seen[0, 2] == 0).all()
    assert torch.isfinite(seen).all()


def test_a_posed_jet_looks_the_same_at_every_mass_place_and_angle():
    small = tables([SLOTS, 7, 3]).reshape(3, SLOTS, 3) * np.array([1, 0.1, 0.1], np.float32)
    pt, eta, phi = small.astype(float).transpose(2, 0, 1)
    there = pt > 0
    four = (pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta))
    energy, *momentum = (v.sum(axis=1) for v in four)
    mass = np.sqrt(energy**2 - sum(p**2 for p in momentum))
    other = (eta + 1j * phi) * np.exp(1j * np.array([[0.7], [2.1], [-1.3]])) * 3 + 0.2 - 0.1j
    moved = np.where(there[:, :, None], np.stack([pt, other.imag, other.real], axis=2), 0)  # mirrored, too
    seen, seen_moved = (
        jet_inputs(torch.from_numpy(t.reshape(3, -1).astype(np.float32)), posed=True)[0].numpy()
        for t in (small, moved)
    )
    for column in (0, 1, 6):  # the angles
        assert np.allclose(seen[there, column], seen_moved[there, column], atol=2e-3)
    size = np.exp(seen[:, 0, 7])
    assert np.allclose(size, mass / np.hypot(*momentum[:2]), rtol=0.01)
    assert np.allclose(np.exp(seen_moved[:, 0, 7]), 3 * size, rtol=1e-3)
    assert (seen[~there] == 0).all()
    alone = jet_inputs(torch.from_numpy(tables([1, 0])), posed=True)[0]
    assert torch.isfinite(alone).all()
    assert alone[0, 0, 7].item() == pytest.approx(np.log(0.01))


def test_the_numbers_of_a_jet():
    x = tables([SLOTS, 7, 3, 2, 1])
    found = jet_numbers(torch.from_numpy(x)).numpy()
    slow = [numbers([c for c in row.reshape(-1, 3).astype(float) if c[0] > 0]) for row in x]
    assert np.allclose(found, slow, rtol=1e-4, atol=1e-4)
    even = np.array([[100, 0.2, 0, 100, -0.2, 0, 0, 0, 0]], np.float32)  # two prongs: e2 = R^b / 4, no triple
    e2, c2, d2 = np.exp(jet_numbers(torch.from_numpy(even))[0, 3:6].double().numpy())
    assert [e2, c2, d2] == pytest.approx([0.1, 1e-10, 1e-9], rel=1e-4)
    assert torch.isfinite(jet_numbers(torch.tensor([[1e6, 1e6, 1e6, 0, 0, 0], [0.0] * 6]))).all()


@pytest.mark.parametrize("d", [2, 6])
def test_the_nearest(d):
    rng = np.random.default_rng(1)
    places = rng.normal(size=(5, SLOTS, d)).astype(np.float32)
    there = np.arange(SLOTS) < np.array([SLOTS, 6, 3, 1, 0])[:, None]
    index, edges = (v.numpy() for v in nearest(torch.from_numpy(places), torch.from_numpy(there), 4))
    for b in range(5):
        for i in range(SLOTS):
            real = [j for j in range(SLOTS) if there[b, j] and there[b, i] and j != i]
            real = sorted(real, key=lambda j: ((places[b, i] - places[b, j]) ** 2).sum())[:4]
            assert sorted(index[b, i][edges[b, i]]) == sorted(real)


def test_normalised_over_real_edges():
    """With the statistics of its batch, a layer's numbers have mean 0 and variance 1 where something is there."""
    network = build_classifier(config())
    seen = {}
    for name, module in network.named_modules():
        if hasattr(module, "moments"):
            module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: (out, i[1])}))
    network(torch.from_numpy(tables([SLOTS] * 40 + COUNTS)))
    assert len(seen) == 1 + 2 * 4
    for out, there in seen.values():
        rows = out[there].detach().numpy()
        alive = rows.std(axis=0) > 0.01  # a layer whose inputs are all 0 has no variance
        assert alive.any()
        assert np.allclose(rows.mean(axis=0), 0, atol=1e-4)
        assert np.allclose(rows.std(axis=0)[alive], 1, atol=1e-2)


def test_frozen_it_is_what_it_was_on_its_batch():
    batch = tables([SLOTS] * 60 + COUNTS)
    network = build_classifier(config())
    weights = {k: p.detach().numpy() for k, p in network.named_parameters()}
    found = statistics(network, [batch])
    frozen = load_weights(build_classifier(config(frozen=True)), weights | found)
    with torch.inference_mode():
        assert np.allclose(
            evaluate_jets(frozen, batch), network.train().both(torch.from_numpy(batch)), atol=1e-4
        )
    soft, hard = (
        tables([SLOTS] * 30, 1),
        tables([SLOTS] * 30, 2) * np.tile([50, 1, 1], SLOTS).astype(np.float32),
    )
    whole, halves = (statistics(network, b) for b in ([np.concatenate([soft, hard])], [soft, hard]))
    for name in ("body.norm.mean", "body.norm.variance"):  # of the inputs, which batches do not normalise
        assert np.allclose(halves[name], whole[name], rtol=1e-4, atol=1e-4)
    one, more = evaluate_jets(frozen, batch[:1]), evaluate_jets(frozen, np.concatenate([batch] * 5))
    assert len(batch) * 5 > ROWS
    assert np.array_equal(more[len(batch) * 4], one[0])


def test_dropout_is_drawn_by_the_generator_and_only_in_training():
    network, x = build_classifier(config(dropout=0.5)), torch.from_numpy(tables([SLOTS] * 30))
    y = torch.zeros(30)

    def loss(seed):
        return exposed_cross_entropy(network, x, y, torch.Generator().manual_seed(seed)).detach()

    assert torch.equal(loss(1), loss(1))
    assert not torch.equal(loss(1), loss(2))
    network.eval()
    assert torch.equal(loss(1), loss(2))
    network.train()
    many = x[:1].repeat(2000, 1)
    with torch.inference_mode():
        drawn, whole = network(many, torch.Generator().manual_seed(3)), network(many)
    spread = drawn.std(dim=0) / len(many) ** 0.5
    assert (spread > 0).all()
    assert ((drawn.mean(dim=0) - whole[0]).abs() < 4 * spread).all()  # what is left is as much larger


def test_events_that_are_not_trained_on_come_in_parts():
    network, x = build_classifier({**config(), "rows": 20}).eval(), torch.from_numpy(tables([SLOTS] * 50))
    parts = [network.body(p) for p in x.tensor_split(3)]
    assert torch.equal(network(x), network.head(torch.cat(parts)))


def test_impossible_sizes():
    for bad in ({"channels": ()}, {"neighbours": 0}, {"dropout": 1.0}, {"width": 0}, {"weight_decay": -1.0}):
        with pytest.raises(ConfigError, match="at least one block"):
            ParticleNet(**bad)


def jets(kind, n, seed, first=0, columns=FEATURES):
    """Jets of one, two or three prongs, 4 to 12 constituents; the mass says nothing."""
    rng = np.random.default_rng([seed, kind])
    angle = rng.uniform(0, 2 * np.pi, (n, 1)) + 2 * np.pi / max(kind, 1) * rng.integers(
        0, max(kind, 1), (n, SLOTS)
    )
    away = 0.4 * (kind > 1)
    spread = 0.15 if kind < 9 else 1.0
    pt = rng.exponential(20, (n, SLOTS)) + 1
    t = np.stack([pt, away * np.cos(angle), away * np.sin(angle)], axis=2)
    t[:, :, 1:] += rng.normal(0, spread, (n, SLOTS, 2))
    t[np.arange(SLOTS) >= rng.integers(4, SLOTS + 1, n)[:, None]] = 0
    identity = np.zeros(n, dtype=IDENTITY)
    identity["event"] = first + np.arange(n)
    mass = rng.uniform(50, 150, n)
    return Events(t.reshape(n, -1).astype(np.float32), mass, rng.uniform(0.5, 1.5, n), identity, columns)


def classifier(seed=0, n=500, more=False, **settings):
    classes = {"two": jets(2, n, 3, first=10**6)}
    settings = {"epochs": 6, "batch": 128, "learning_rate": 1e-2, "classes": classes, **settings}
    return ClassifierAnomaly(
        particle_net=ParticleNet(4, (8, 8), 12, posed=more, numbers=more), seed=seed, **settings
    )


def auc(signal, background):
    ranks = rankdata(np.concatenate([signal, background]))[: len(signal)]
    return (ranks.sum() - len(signal) * (len(signal) + 1) / 2) / len(signal) / len(background)


def test_the_contract_of_a_score():
    def toy(n, seed, signal=0.0, first=0):
        k = round(signal * n)
        parts = [jets(kind, m, seed, first + i * k) for i, (kind, m) in enumerate(((2, k), (1, n - k))) if m]
        return Events.concatenate(parts)

    assert (
        broken_promises(lambda seed: classifier(seed, kind="anti_class", schedule="cosine", more=True), toy)
        == []
    )


@pytest.mark.parametrize("logits", ["linear", "distance"])
def test_it_learns_prongs_and_survives_the_store(tmp_path, logits):
    matching = MassMatching(20.0, column="pt_J", column_width=100.0, least=3)
    score = classifier(kind="anti_class", logits=logits, matching=matching).fit(
        jets(1, 500, 4), jets(1, 2, 5)
    )
    found = [score.scores(jets(kind, 300, 6)) for kind in (1, 2)]
    assert auc(found[1]["anti_class"], found[0]["anti_class"]) > 0.9
    assert auc(score.scores(jets(9, 300, 6))["mahalanobis"], found[0]["mahalanobis"]) > 0.7
    save(score, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m", FEATURES)
    assert back == score
    assert back.particle_net == ParticleNet(4, (8, 8), 12)
    for kind, values in found[1].items():
        assert np.array_equal(back.scores(jets(2, 300, 6))[kind], values), kind
    with pytest.raises(ConfigError, match="particle_net: its neighbours are sorted"):
        score.network()


def test_small_batches_are_many_when_the_normalisation_is_frozen(monkeypatch):
    seen = []

    def counted(network, batches):
        seen.extend(len(b) for b in batches)
        return statistics(network, [tables([SLOTS] * 5)])

    monkeypatch.setattr("elsewhere.models.scores.classifier_anomaly.statistics", counted)
    classifier(batch=32, epochs=1).fit(jets(1, 500, 4), None)
    assert set(seen) == {32}
    assert len(seen) > 20  # all whole batches of about 800 jets, not 8


def test_columns_that_are_no_constituents():
    other = replace(FEATURES, columns=(Column("pt", "", ""), *FEATURES.columns[1:]))
    with pytest.raises(FeatureError, match="column pt belongs to no constituent"):
        classifier(classes={"two": jets(2, 50, 1, columns=other)}).fit(jets(1, 50, 1, columns=other), None)
