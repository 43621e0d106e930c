import re

import numpy as np
import pytest
from elsewhere.analysis import plots as pl
from elsewhere.analysis.report import (
    ReportFigure,
    ReportPart,
    ReportSearch,
    ReportTable,
    plain,
    show,
    write_report,
)
from elsewhere.workspace import read_json


def a_search(title="Dijets <b>&", parts=()):
    return ReportSearch(
        title, "asked", "found", "Nothing found", "nothing", [("global p", "0.31")], ["INCOMPLETE"], parts
    )


def a_part():
    curve = pl.ScanCurve("1%", np.array([1.0, 2.0]), np.array([0.1, np.nan]))
    figure = ReportFigure("scan", pl.plot_scan([curve]), "local <p>", curve)
    return ReportPart(
        "Scan", "words", [figure], [ReportTable(["a", "b"], [["<i>", 12345], ["y", float("nan")]])]
    )


def test_page_is_self_contained_and_escaped(tmp_path):
    path = tmp_path / "report.html"
    write_report(
        path,
        [a_search(parts=[a_part(), None]), a_search("empty")],
        {"n": 3},
        shared=[ReportPart("Cite", code="@a{<x>}", folded=True)],
    )
    html = path.read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", html)
    assert "@import" not in html
    assert "<script" not in html
    assert "Dijets &lt;b&gt;&amp;" in html
    assert "<b>&" not in html
    assert "&lt;i&gt;" in html
    assert "INCOMPLETE" in html
    assert html.count("data:image/svg+xml;base64,") == 1
    for anchor in re.findall(r'href="#([^"]+)"', html):
        assert html.count(f'id="{anchor}"') == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_numbers_of_figures_are_in_the_json(tmp_path):
    write_report(tmp_path / "r.html", [a_search("one", [a_part()])], {"n": 3})
    raw = read_json(tmp_path / "r.json")
    assert raw["n"] == 3
    assert raw["searches"]["one"]["figures"]["scan"]["p_local"] == [0.1, None]


def test_failed_writing_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(path, [], {})
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_same_input_same_page(tmp_path):
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, [a_search(parts=[a_part()])], {})
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_plain_and_show():
    assert plain({"a": np.float64("inf"), "b": (np.int64(2), None)}) == {"a": None, "b": [2, None]}
    assert show(1234567) == "1\u202f234\u202f567"
    assert show(0.00012344) == "0.0001234"
    assert show(None) == "–"
