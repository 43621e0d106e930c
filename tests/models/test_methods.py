"""Names and settings become methods, with errors that help; every paper has its BibTeX."""

import re

import pytest
from elsewhere.errors import ConfigError
from elsewhere.models.base import Reference, Representation, Score
from elsewhere.models.methods import (
    PAPERS,
    REFERENCES,
    REPRESENTATIONS,
    SCORES,
    WRAPPERS,
    build,
    citations,
    method,
    papers_of,
    settings_of,
)
from elsewhere.models.scores.weak_trees import WeakTrees


def test_every_method_is_built_from_its_own_defaults():
    for factor, methods in (
        ("score", SCORES),
        ("representation", REPRESENTATIONS),
        ("reference", REFERENCES[:1]),
    ):
        for cls in methods:
            assert build(cls.__name__, {}, factor) == cls()
            assert build(cls.__name__, settings_of(cls), factor) == cls()


def test_every_method_is_behind_its_protocol():
    for protocol, methods in ((Score, SCORES), (Representation, REPRESENTATIONS), (Reference, REFERENCES)):
        assert methods
        assert all(isinstance(cls(), protocol) for cls in methods)


def test_settings_arrive():
    assert build("WeakTrees", {"members": 3, "learning_rate": 0.05}, "score") == WeakTrees(
        members=3, learning_rate=0.05
    )
    assert build("Autoencoder", {"hidden": [8, 4]}, "score").hidden == (8, 4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("WeakTree", {}, r"score.method: no method 'WeakTree'; did you mean 'WeakTrees'\?"),
        ("WeakTrees", {"member": 3}, r"score.member: unknown setting of WeakTrees; did you mean 'members'\?"),
        ("WeakTrees", {"members": "many"}, r"score.members: found 'many', expected: .*integer"),
        ("WeakTrees", {"members": 2.5}, r"score.members: found 2.5, expected: .*integer"),
        ("WeakTrees", {"trees_": ["x"]}, r"score.trees_: unknown setting"),
        ("Autoencoder", {"trainer": None}, r"score.trainer: unknown setting"),
        ("Autoencoder", {"hidden": [8, "x"]}, r"score.hidden.1: found 'x'"),
        ("Sidebands", {}, r"score.method: no method 'Sidebands'"),
    ],
)
def test_errors_name_the_path_the_value_and_the_nearest(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build(name, settings, "score")


def test_the_paper_of_an_inner_score_is_cited_too():
    assert papers_of("Autoencoder", {"latent": 3}, "score") == ["2108.03986"]
    twice = {"inner": {"method": "TreeStudent", "inner": {"method": "Autoencoder"}}}
    assert papers_of("TreeStudent", twice, "score") == ["2002.02534", "2002.02534", "2108.03986"]
    with pytest.raises(ConfigError, match=r"score\.inner: found None"):
        papers_of("TreeStudent", {}, "score")


def test_a_method_is_found_without_its_factor():
    assert method("WeakTrees") is WeakTrees


def test_every_paper_of_a_method_has_bibtex_of_its_own_number():
    methods = (*SCORES, *REFERENCES, *REPRESENTATIONS, *WRAPPERS)
    papers = [m.paper for m in methods if m.paper]
    assert citations(papers).count("@article") == len(set(papers))
    for number, entry in PAPERS.items():
        assert f"eprint={{{number}}}" in entry
        assert entry.count("{") == entry.count("}")
        year = int(re.search(r"year=\{(\d{4})\}", entry).group(1))
        assert 0 <= year - (2000 + int(number[:2])) <= 2
        assert re.match(r"@article\{\w+:20\d\d\w+, author=\{\S.*\}, title=\{\{\S", entry)
    for number in ("1708.02949", "1902.02634", "2309.13111", "2109.00546", "2108.03986", "2101.08320"):
        assert number in PAPERS


def test_citations_are_given_once_in_order_and_unknown_ones_refused():
    text = citations(["2309.13111", "1708.02949", "2309.13111"])
    assert text.index("Finke") < text.index("Metodiev")
    assert text.count("@article") == 2
    with pytest.raises(ConfigError, match=r"9999\.99999"):
        citations(["9999.99999"])


def test_a_method_of_two_papers_cites_both():
    assert papers_of("Axol1tlV5", {}, "score") == ["2411.19506", "2105.04906"]
