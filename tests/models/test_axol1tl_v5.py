"""Version 5 of the level-1 trigger's score: its losses, its types, its two trainings, and that its score is the firmware's."""

import shutil
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from elsewhere.deploy.emulator import FirmwareScore, InputScale
from elsewhere.deploy.firmware import export
from elsewhere.deploy.fixedpoint import compare, extreme_inputs
from elsewhere.deploy.precision import FirmwareSettings
from elsewhere.deploy.project import read_project
from elsewhere.deploy.rtl import RtlSettings
from elsewhere.deploy.rtl_export import RtlRequest
from elsewhere.errors import ConfigError, FeatureError, InputError
from elsewhere.events import IDENTITY, Column, Events, FeatureSet
from elsewhere.fixed import Fixed
from elsewhere.models.augmentations.level1 import Strength
from elsewhere.models.base import Exportable, TrainedTypes
from elsewhere.models.methods import build
from elsewhere.models.networks.axol1tl_v5 import (
    V5Types,
    autoencoder_kinds,
    autoencoder_loss,
    backbone_kinds,
    backbone_layers,
    backbone_loss,
    build_autoencoder,
    build_backbone,
    through,
)
from elsewhere.models.networks.vicreg import vicreg
from elsewhere.models.scores.axol1tl_v5 import Axol1tlV5
from elsewhere.models.store import load, save
from elsewhere.models.training import TrainPlan, ray_session

SMALL = {
    "backbone": (16, 6),
    "projector": 16,
    "encoder": (5, 4),
    "latent": 2,
    "backbone_epochs": 12,
    "autoencoder_epochs": 40,
    "batch": 128,
    "learning_rate": 5e-3,
    "beta": 0.02,
}
OBJECTS = ("MET", "EG0", "Mu0", "Jet0", "Jet1")
RANGES = {"pt": (0.0, None), "eta": (-5.0, 5.0), "phi": (-np.pi, np.pi)}
FEATURES = FeatureSet(
    "objects", tuple(Column(f"{o}_{part}", "", part, *RANGES[part]) for o in OBJECTS for part in RANGES)
)


def crossings(n, seed, first=0, hard=1.0):
    """Falling pT spectra, a part of the slots empty; ``hard`` makes all harder."""
    rng = np.random.default_rng(seed)
    there = rng.random((n, len(OBJECTS))) < 0.5 * min(1.5, hard)
    pt, eta, phi = (
        hard * rng.exponential(20, there.shape) + 3,
        rng.uniform(-3, 3, there.shape),
        rng.uniform(-np.pi, np.pi, there.shape),
    )
    x = np.stack([v * there for v in (pt, eta, phi)], axis=2).reshape(n, -1).astype(np.float32)
    identity = np.zeros(n, IDENTITY)
    identity["event"] = first + np.arange(n)
    return Events(x, np.full(n, np.nan), rng.uniform(0.5, 1.5, n), identity, FEATURES)


@pytest.fixture(scope="module")
def fitted():
    return Axol1tlV5(**SMALL).fit(crossings(2000, 1), crossings(10, 2))


@pytest.fixture(scope="module")
def firmware(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("v5") / "fw"
    scale = InputScale(tuple(map(float, fitted.offset_)), tuple(2.0**-fitted.shift_))
    settings = FirmwareSettings(**fitted.firmware_types())
    fresh = crossings(2000, 3, 20_000)
    made = export(fitted, FEATURES, scale, folder, fresh.x[:500], settings=settings, rtl=_rtl(fresh.x))
    assert made.bits.exact
    return made


def _rtl(x):
    """Verilog too, where the tools are."""
    tools = shutil.which("verilator") and shutil.which("make")
    return RtlRequest(RtlSettings(latency_cutoff=6), x, events=3000) if tools else None


def fixed(value, kind):
    return kind.to_float(kind.from_float(value))


def by_hand(m, events, types):
    """The score in double precision and the rounding of ``fixed``; ``types``: (weight, bias, result) of every layer."""
    value = fixed((events.x.astype(np.float64) - m.offset_) * 2.0**-m.shift_, Fixed.parse(types[0]))
    h = None
    names = [f"backbone.{i}" for i in range(2)] + [f"autoencoder.{i}" for i in range(6)]
    for i, (name, result) in enumerate(zip(names, types[1:9], strict=True)):
        value = value @ m.weights_[f"{name}.weight"].T.astype(np.float64) + m.weights_[f"{name}.bias"]
        value = fixed(np.maximum(value, 0) if result.startswith("u") else value, Fixed.parse(result))
        h = value if i == 1 else h
    difference = fixed(value - h, Fixed.parse(types[9]))
    return fixed((difference**2).sum(axis=1), Fixed.parse(types[10]))


RELU, WIDE = "ufixed<10,6,RND_CONV,SAT>", "fixed<18,11,RND_CONV,SAT>"
#: Input, two layers of the backbone, six of the autoencoder, difference, score.
TABLE = (
    "fixed<14,6,RND_CONV,SAT>", RELU, RELU, RELU, RELU, WIDE, RELU, RELU, WIDE, WIDE, "fixed<18,14,RND_CONV,SAT>",
)  # fmt: skip


def test_the_score_is_what_the_published_types_give(fitted):
    fresh = crossings(3000, 4, 30_000, hard=3.0)
    scores = fitted.score(fresh)
    np.testing.assert_array_equal(scores, by_hand(fitted, fresh, TABLE))
    assert len(np.unique(scores)) > 200


def test_the_firmware_gives_the_trained_score_bit_for_bit(fitted, firmware):
    assert isinstance(fitted, Exportable)
    assert isinstance(fitted, TrainedTypes)
    fresh = crossings(4000, 5, 40_000, hard=2.0)
    scores = fitted.score(fresh)
    np.testing.assert_array_equal(FirmwareScore(firmware.folder).score(fresh), scores)
    assert compare(firmware.folder, fresh.x, extremes=1000).exact
    kind = Fixed.parse(fitted.types.input)
    inputs = extreme_inputs(kind, len(FEATURES), 1000, np.random.default_rng(6))
    raw = (inputs / 2.0**-fitted.shift_ + fitted.offset_).astype(np.float32)
    hurt = Events(raw, np.full(1000, np.nan), np.ones(1000), np.zeros(1000, IDENTITY), FEATURES)
    np.testing.assert_array_equal(FirmwareScore(firmware.folder).score(hurt), fitted.score(hurt))


def test_the_target_of_the_firmware_is_an_inner_layer(firmware):
    project = read_project(firmware.folder / "hls")
    last = next(op for op in project.operations if op.kind == "subtract")
    makers = {op.output: op for op in project.operations}
    out, h = (makers[name] for name in last.inputs)
    assert (out.name, h.name, h.kind) == ("autoencoder_9", "backbone_3", "relu")


@pytest.mark.skipif(
    shutil.which("verilator") is None, reason="verilator is not installed: apt install verilator"
)
def test_the_verilog_gives_it_too(firmware):
    assert firmware.rtl.proof.exact
    assert [s.name for s in firmware.rtl.proof.steps] == ["emulator", "interpreter", "rtl"]


def test_stored_weights_are_numbers_of_their_own_types(fitted):
    table = {"backbone": backbone_kinds(2), "autoencoder": autoencoder_kinds(2)}
    seen = set()
    for part, kinds in table.items():
        for i, names in enumerate(kinds):
            for parameter, name in zip(("weight", "bias"), names[:2], strict=True):
                kind, value = fitted.types.of(name), fitted.weights_[f"{part}.{i}.{parameter}"]
                codes = value.astype(np.float64) / kind.step
                np.testing.assert_array_equal(codes, np.rint(codes))
                assert kind.low <= codes.min() <= codes.max() <= kind.high, (part, i, parameter)
                seen.add(f"{part}.{i}.{parameter}")
    assert seen == set(fitted.weights_)


def test_types_are_those_of_the_public_firmware():
    types = V5Types()
    whole = [*backbone_kinds(2), *autoencoder_kinds(2)]
    found = [tuple(str(types.of(n)).split(",RND")[0] for n in names) for names in whole]
    relu, wide = "ufixed<10,6", "fixed<18,11"
    assert found == [
        ("fixed<4,1", "fixed<4,1", relu), ("fixed<4,1", "fixed<4,1", relu),
        ("fixed<5,2", "fixed<4,1", relu), ("fixed<5,2", "fixed<4,1", relu), ("fixed<5,2", "fixed<3,0", wide),
        ("fixed<4,1", "ufixed<3,0", relu), ("fixed<5,2", "ufixed<3,0", relu), ("fixed<5,2", "fixed<4,1", wide),
    ]  # fmt: skip


CONFIG = {
    "widths": [15, 8, 4], "projector": 12, "strength": [0.5, 0.9, 0.7, 0.9, 0.5], "coefficients": [50.0, 50.0, 1.0],
    "seed": 1,
}  # fmt: skip


def backbone(types):
    made = Axol1tlV5()
    made.columns_, made.offset_, made.shift_ = 15, np.full(15, 0.5), np.full(15, 2)
    layout = made._layout(FEATURES).to_json()
    return build_backbone({**CONFIG, "layout": layout, "types": types}), made


def test_the_backbones_loss_is_vicreg_of_two_views():
    from elsewhere.models.augmentations.level1 import view

    network, made = backbone(asdict(V5Types()))
    x = torch.from_numpy(made.scale(crossings(64, 7).x))
    with torch.no_grad():
        for gain, shift in zip(network.gains, network.shifts, strict=True):
            gain.mul_(torch.linspace(0.5, 1.5, len(gain)))
            shift.add_(torch.linspace(-0.3, 0.6, len(shift)))
    found = backbone_loss(network, x, None, torch.Generator().manual_seed(3))
    generator, views = torch.Generator().manual_seed(3), []
    for _ in range(2):
        drawn = view(x, network.layout, network.strength, generator).numpy().astype(float)
        value = fixed(drawn, Fixed.parse(TABLE[0]))
        for w, b in normalised(network, value):
            value = fixed(np.maximum(value @ w.T + b, 0), Fixed.parse(RELU))
        views.append(network.projector(torch.from_numpy(value).float()))
    wanted = vicreg(*views)
    torch.testing.assert_close(found, wanted.expand(64), rtol=1e-4, atol=1e-4)
    found[0].backward()
    learnt = [*network.layers.parameters(), *network.gains, *network.shifts]
    assert all(p.grad.abs().sum() > 0 for p in learnt)
    assert backbone_loss(network, x[:1], None, generator).tolist() == [0.0]


def normalised(network, value):
    """Weights and biases of every layer in their type, normalised by the events (n, d) that go in, in double precision."""
    kind, out = Fixed.parse("fixed<4,1,RND_CONV,SAT>"), []
    for layer, *learnt in zip(network.layers, network.gains, network.shifts, strict=True):
        weight, gain, shift = (p.detach().numpy().astype(float) for p in (layer.weight, *learnt))
        sums = value @ weight.T
        factor = gain / np.sqrt(sums.var(axis=0) + 1e-3)
        out.append((fixed(weight * factor[:, None], kind), fixed(shift - sums.mean(axis=0) * factor, kind)))
        value = fixed(np.maximum(value @ out[-1][0].T + out[-1][1], 0), Fixed.parse(RELU))
    return out


def test_the_layers_that_stay_are_normalised_by_a_view_of_every_event():
    from elsewhere.models.augmentations.level1 import view

    network, made = backbone(asdict(V5Types()))
    x = torch.from_numpy(made.scale(crossings(500, 7).x))
    drawn = view(x, network.layout, network.strength, torch.Generator().manual_seed(4)).numpy()
    wanted = normalised(network, fixed(drawn.astype(float), Fixed.parse(TABLE[0])))
    found = backbone_layers(network, x, torch.Generator().manual_seed(4))
    kind = Fixed.parse("fixed<4,1,RND_CONV,SAT>")
    for (w, b), (w_wanted, b_wanted) in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(fixed(w.detach().numpy().astype(float), kind), w_wanted)
        np.testing.assert_array_equal(fixed(b.detach().numpy().astype(float), kind), b_wanted)


@pytest.mark.parametrize("types", [None, asdict(V5Types())], ids=["plain", "quantised"])
def test_the_autoencoders_loss_is_its_formula(types):
    config = {"widths": [6, 5, 4], "latent": 2, "scale": 0.5, "beta": 0.3, "types": types, "seed": 1}
    network = build_autoencoder(config)
    h = 3 * torch.rand(7, 6, generator=torch.Generator().manual_seed(2))
    found = autoencoder_loss(network, h, None, torch.Generator().manual_seed(5))

    def cast(value, text):
        return value if types is None else torch.from_numpy(fixed(value.numpy(), Fixed.parse(text)))

    def layer(i, x, weight, bias, result):
        w, b = (p.detach().double() for p in network.layers[i].parameters())
        out = x @ cast(w, f"{weight},RND_CONV,SAT>").T + cast(b, f"{bias},RND_CONV,SAT>")
        return cast(out.clamp(min=0) if result == RELU else out, result)

    hidden = layer(1, layer(0, h.double(), "fixed<5,2", "fixed<4,1", RELU), "fixed<5,2", "fixed<4,1", RELU)
    mean = layer(2, hidden, "fixed<5,2", "fixed<3,0", WIDE)
    log_variance = network.log_variance(hidden.float()).detach().double()
    noise = torch.randn(7, 2, generator=torch.Generator().manual_seed(5)).double()
    z = cast(mean + torch.exp(log_variance / 2) * noise, WIDE)
    made = layer(4, layer(3, z, "fixed<4,1", "ufixed<3,0", RELU), "fixed<5,2", "ufixed<3,0", RELU)
    made = layer(5, made, "fixed<5,2", "fixed<4,1", WIDE)
    normal = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1)
    wanted = 0.35 * ((made - h) ** 2).sum(dim=1) + 0.3 * divergence
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_weights_begin_where_there_is_a_gradient():
    config = {"widths": [6, 5, 4], "latent": 2, "scale": 0.5, "beta": 0.3, "seed": 1}
    plain, network = (build_autoencoder({**config, "types": t}) for t in (None, asdict(V5Types())))
    assert plain.layers[3].weight.abs().max() > 1
    assert network.layers[3].weight.max() <= 0.875
    x = torch.rand(500, 6, generator=torch.Generator().manual_seed(2))
    autoencoder_loss(network, x, None, torch.Generator().manual_seed(5)).mean().backward()
    assert (network.layers[3].weight.grad != 0).float().mean() > 0.6


def test_both_trainings_improve_and_nothing_collapses(fitted):
    for record, epochs, part in ((fitted.backbone_record_, 12, 0.7), (fitted.record_, 40, 0.2)):
        assert len(record.train_loss) == epochs
        assert record.train_loss[-1] < part * record.train_loss[0]
    fresh = crossings(2000, 8, 50_000)
    h = fitted._representation(fitted.scale(fresh.x)).astype(np.float64)
    assert (h.std(axis=0) > 0.3).sum() >= 4
    untrained = Axol1tlV5(**{**SMALL, "autoencoder_epochs": 1, "learning_rate": 1e-9})
    untrained = untrained.fit(crossings(2000, 1), crossings(10, 2))
    h_before = untrained._representation(untrained.scale(fresh.x)).astype(np.float64)
    # what a constant would leave of h is 1 here
    assert fitted.score(fresh).mean() / h.var(axis=0).sum() < 0.8
    assert untrained.score(fresh).mean() / h_before.var(axis=0).sum() > 1.2
    odd = fitted.score(crossings(2000, 9, 60_000, hard=3.0))
    assert (odd[:, None] > fitted.score(fresh)[None]).mean() > 0.75


def test_a_frozen_backbone_is_not_moved_by_the_second_training(fitted):
    other = Axol1tlV5(**{**SMALL, "autoencoder_epochs": 1}).fit(crossings(2000, 1), crossings(10, 2))
    for name, value in fitted.weights_.items():
        if name.endswith("weight"):
            assert np.array_equal(value, other.weights_[name]) == name.startswith("backbone"), name


def test_weights_of_events_matter():
    one = crossings(600, 1)
    other = replace(one, weight=one.weight * np.where(np.arange(600) < 300, 1.0, 1e-3))
    short = {**SMALL, "backbone_epochs": 2, "autoencoder_epochs": 2}
    first, second = (Axol1tlV5(**short, low=0.0, high=100.0).fit(e, e) for e in (one, other))
    assert np.array_equal(first.shift_, second.shift_)
    assert not np.array_equal(first.weights_["backbone.0.weight"], second.weights_["backbone.0.weight"])


def test_a_plain_one_scores_what_its_network_gives():
    short = {**SMALL, "backbone_epochs": 2, "autoencoder_epochs": 2}
    plain = Axol1tlV5(**short, quantised=False).fit(crossings(1000, 1), crossings(10, 2))
    fresh = crossings(200, 3)
    found = plain.network()(torch.from_numpy(plain.scale(fresh.x))).detach().numpy()
    np.testing.assert_allclose(plain.score(fresh), found, rtol=1e-4, atol=1e-5)
    assert plain.firmware_types() == {}


@pytest.mark.slow
def test_two_workers_give_what_one_process_gives(tmp_path):
    short = {**SMALL, "backbone_epochs": 2, "autoencoder_epochs": 2, "shards": 2}
    reference, seen = crossings(600, 1), []
    plan = TrainPlan(folder=tmp_path / "plain", progress=lambda epoch, *_: seen.append(epoch))
    plain = Axol1tlV5(**short, trainer=plan).fit(reference, reference)
    assert seen == [1, 2, 3, 4] == list(range(1, plain.epochs + 1))
    ray = TrainPlan("ray", 2, folder=tmp_path / "ray")
    with ray_session("local", 2):
        spread = Axol1tlV5(**short, trainer=ray).fit(reference, reference)
    assert spread.record_.workers == 2
    assert plain.weights_.keys() == spread.weights_.keys()
    for name, value in plain.weights_.items():
        np.testing.assert_array_equal(value, spread.weights_[name], err_msg=name)
    again = Axol1tlV5(**short, trainer=replace(plan, progress=None)).fit(reference, reference)
    assert again.backbone_record_ == plain.backbone_record_  # the times, too: neither was trained again
    assert again.record_ == plain.record_


def test_it_comes_from_a_configuration_and_back_from_the_disk(tmp_path):
    types, strength = {"input": "fixed<12,6,RND_CONV,SAT>"}, {"mask": 0.2}
    small = {k: list(v) if isinstance(v, tuple) else v for k, v in SMALL.items()}
    small |= {"backbone_epochs": 1, "autoencoder_epochs": 1, "types": types, "strength": strength}
    made = build("Axol1tlV5", small, "score").fit(crossings(300, 1), crossings(10, 2))
    assert made.types == V5Types(**types)
    assert made.strength == Strength(mask=0.2)
    save(made, tmp_path / "m", FEATURES, {})
    back, _ = load(tmp_path / "m")
    assert (back.types, back.strength, back.record_) == (made.types, made.strength, made.record_)
    assert back.backbone_record_ == made.backbone_record_
    np.testing.assert_array_equal(back.score(crossings(50, 4)), made.score(crossings(50, 4)))
    for bad in ({"types": {"inputs": "fixed<8,6>"}}, {"strength": {"masks": 0.1}}):
        with pytest.raises(ConfigError, match=f"score.{next(iter(bad))}"):
            build("Axol1tlV5", bad, "score")


def test_what_cannot_work_is_refused(fitted):
    for bad in ({"beta": 1.5}, {"alpha": 0.0}, {"encoder": ()}):
        with pytest.raises(ConfigError, match="beta between 0 and 1"):
            Axol1tlV5(**bad)
    with pytest.raises(ConfigError, match="parts from 0 to 1"):
        Axol1tlV5(strength=Strength(mask=1.2))
    with pytest.raises(InputError, match="has not been fitted"):
        Axol1tlV5().score(crossings(5, 1))
    with pytest.raises(FeatureError, match="trained on 15 columns"):
        fitted.scale(np.zeros((3, 2)))


def test_types_that_firmware_or_float32_cannot_hold_are_refused():
    with pytest.raises(ConfigError, match=r"types.narrow: .* is not inside types.weight"):
        V5Types(narrow="fixed<8,1,RND_CONV,SAT>")
    with pytest.raises(ConfigError, match=r"types.positive_bias: .* is not inside types.bias"):
        V5Types(positive_bias="ufixed<4,1,RND_CONV,SAT>")
    types = V5Types(input="fixed<17,6,RND_CONV,SAT>")
    with pytest.raises(ConfigError, match=r"57 inputs in fixed<17,6.* 24 bits do not hold"):
        types.check([57, 29, 10], backbone_kinds(2), "input")
    wide = Axol1tlV5(**SMALL, types=V5Types(input="fixed<20,6,RND_CONV,SAT>"))
    with pytest.raises(ConfigError, match="narrow the types"):
        wide.fit(crossings(50, 1), crossings(10, 2))
    V5Types().check([57, 29, 10], backbone_kinds(2), "input")
    V5Types().check([10, 9, 6, 4, 6, 9, 10], autoencoder_kinds(2), "activation")
    assert {f.name for f in fields(V5Types)} >= set(Axol1tlV5().firmware_types())


def test_layers_are_run_in_their_own_types():
    layers = [(torch.tensor([[0.9]]), torch.tensor([1.0]))]
    found = through(torch.tensor([[1.0]]), layers, [("narrow", "positive_bias", "activation")], V5Types())
    assert float(found) == 0.875 + 0.875
    assert float(
        through(torch.tensor([[1.0]]), layers, [("weight", "bias", "linear")], None)
    ) == pytest.approx(1.9)
