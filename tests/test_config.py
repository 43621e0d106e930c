from pathlib import Path

import pytest
from elsewhere.config import SearchConfig, load_config
from elsewhere.errors import ConfigError
from elsewhere.events import Window
from elsewhere.processors.nuisances.registry import NUISANCES, settings_of
from elsewhere.search import shrunk

ROOT = Path(__file__).resolve().parents[1]
DIJET = ROOT / "templates" / "dijet.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "templates").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_configuration_is_valid(path):
    config = load_config(path)
    assert config.name


@pytest.mark.parametrize("path", sorted((ROOT / "templates").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_configuration_with_every_default_written_out_is_the_same(path):
    config = load_config(path)
    assert SearchConfig.model_validate(config.model_dump()) == config
    assert shrunk(config).name == config.name


TRIGGER = ROOT / "templates" / "trigger.yaml"
BEHIND = "representation={method: AnomClr}"


@pytest.mark.parametrize("more", [[], [BEHIND]])
def test_a_rate_study_takes_a_representation_but_no_reference(more):
    assert load_config(TRIGGER, [*more, "firmware=null"]).representation.method == (
        "AnomClr" if more else "Identity"
    )
    with pytest.raises(ConfigError, match="rates has no mass window to learn a background of"):
        load_config(TRIGGER, [*more, "reference={method: Outside}"])


def test_the_front_takes_no_representation():
    change = "front={bits: [4]}"
    assert load_config(TRIGGER, [change])
    with pytest.raises(ConfigError, match=r"front trains .* of the columns themselves: leave it out, or the"):
        load_config(TRIGGER, [change, BEHIND])


def test_a_test_run_shrinks_the_representation_too():
    config = shrunk(load_config(TRIGGER, ["representation={method: VicReg, seed: 4}"]))
    assert config.representation.settings == {"seed": 4, "epochs": 2}
    assert config.score.settings["epochs"] == 2
    assert shrunk(load_config(TRIGGER)).representation.settings == {}


def test_windows_are_the_asked_ones():
    windows = load_config(
        DIJET, ["hunt.windows.first=3300.0", "hunt.windows.last=3700.0"]
    ).hunt.windows.windows()
    assert windows == [Window(3100, 3500), Window(3300, 3700), Window(3500, 3900)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("hunt.effeciency=0.01", r"hunt\.effeciency: unknown key"),
        ("hunt.toy=3", r"hunt\.toy: unknown key; did you mean 'toys'"),
        ("events.datasets.qcd.rol=data", r"events\.datasets\.qcd\.rol: unknown key; did you mean 'role'"),
        ("events.chunks=3", r"events\.chunks: unknown key; did you mean 'chunk'"),
        ("seed='7'", r"seed: found '7', expected: a valid integer"),
        ("hunt.toys=1e5", r"hunt\.toys: found '1e5', expected: a valid integer"),
        ("hunt.cuts=[0.1, 0.2]", r"cuts \[0\.1, 0\.2\] must decrease strictly"),
        ("hunt.cuts=[1.5]", r"hunt\.cuts\.0: found 1\.5"),
        ("hunt.mass_low=9000.0", "mass_low 9000.0 is not below mass_high 6500.0"),
        ("hunt.windows.last=6500.0", r"leaves no sideband inside 2500-6500 GeV"),
        ("hunt.guard=300.0", r"window 2700-3100 with a guard of 300 GeV leaves no sideband"),
        ("hunt.guard=150.0", r"mass_low \+ guard 2650 is not a bin edge"),
        ("hunt.guard=-1.0", r"hunt\.guard"),
        ("hunt.statistic=likelihood", r"hunt\.statistic"),
        ("hunt.windows.first=2950.0", r"window edge 2750 is not a bin edge"),
        ("events.datasets.qcd.inject=5", "inject needs role: signal"),
        ("rates={}", "exactly one statistic"),
        ("run.workers=0", r"run\.workers: found 0"),
        ("events.datasets.qcd.role=dta", r"found 'dta', expected: 'data', 'reference' or 'signal'"),
        ("name=../x", r"name: found '\.\./x'"),
        ("reference=null", "hunt needs a reference"),
        ("score=null", r"score"),
        ("firmware={cost: true}", r"cost: true counts the cells of the Verilog; set rtl: true"),
        ("firmware={latency_cutoff: 0}", r"firmware\.latency_cutoff: found 0"),
        ("nonsense", r"expected a\.b=c"),
    ],
)
def test_a_mistake_names_its_key_value_and_cure(change, says):
    with pytest.raises(ConfigError, match=says):
        load_config(DIJET, [change])


def test_all_mistakes_are_listed_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(DIJET, ["hunt.toy=3", "run.wrkers=2"])
    assert "hunt.toy" in str(caught.value)
    assert "did you mean 'workers'" in str(caught.value)


def test_files_that_are_not_yaml(tmp_path):
    with pytest.raises(ConfigError, match="elsewhere init"):
        load_config(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    for text, says in (("a: [", "not YAML"), ("- 1", "expected sections"), ("a: 1\na: 2", "given twice")):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_config(bad)


def test_the_readmes_streaming_settings_are_settings(tmp_path):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    block = next(b.split("```")[0] for b in readme.split("```yaml\n")[1:] if "systematics:" in b)
    rest = """
name: readme
reference: {method: Sidebands, width: 400.0}
score: {method: WeakTrees}
hunt: {mass_low: 2300.0, mass_high: 6500.0, windows: {first: 2900.0, last: 4500.0, step: 200.0, width: 400.0}}
"""
    (tmp_path / "search.yaml").write_text(block + rest)
    config = load_config(tmp_path / "search.yaml")
    assert config.run.cluster.kind == "slurm"
    assert set(config.systematics.nuisances) == {"jes", "id"}
    kinds = {cls.__name__: settings_of(cls) for cls in NUISANCES}
    for nuisance in config.systematics.nuisances.values():
        assert set(nuisance.model_dump()) - {"kind"} <= set(kinds[nuisance.kind])
