import logging

import numpy as np
import pytest
from elsewhere.errors import InputError
from elsewhere.processors.luminosity import LuminosityTable

BRIL = """#Data tag : 19v3 , Norm tag: onlineresult
#run:fill,ls,time,beamstatus,E(GeV),delivered(/{unit}),recorded(/{unit}),avgpu,source
275657:5021,1:1,06/25/16 07:59:48,STABLE BEAMS,6500,2000.5,1000.25,23.1,PXL
275657:5021,2:2,06/25/16 08:00:11,STABLE BEAMS,6500,3000.0,2500.0,23.0,PXL
275657:5021,3:0,06/25/16 08:00:34,STABLE BEAMS,6500,500.0,0.0,22.9,PXL
275658:5021,1:1,06/25/16 08:01:00,STABLE BEAMS,6500,100.0,50.0,22.9,HFOC
#Summary:
#nfill,nrun,nls,ncms,totdelivered(/{unit}),totrecorded(/{unit})
#1,2,4,3,5600.5,3550.25
"""


@pytest.fixture
def table(tmp_path):
    def read(text):
        path = tmp_path / "lumi.csv"
        path.write_text(text)
        return LuminosityTable.read(path)

    return read


@pytest.mark.parametrize(("unit", "pb"), [("ub", 1e-6), ("nb", 1e-3), ("pb", 1.0), ("fb", 1e3)])
def test_brilcalcs_table_is_read_in_its_own_unit(table, unit, pb):
    found = table(BRIL.format(unit=unit))
    whole = found.integrate({"275657": [[1, 3]], "275658": [[1, 1]]})
    assert whole.recorded_pb == pytest.approx(3550.25 * pb, rel=1e-12)
    assert whole.delivered_pb == pytest.approx(5600.5 * pb, rel=1e-12)
    assert whole.recorded_fb == pytest.approx(3.55025 * pb, rel=1e-12)
    assert whole.sections == 4
    assert whole.missing == {}


def test_only_what_was_processed_is_integrated(table):
    found = table(BRIL.format(unit="pb"))
    part = found.integrate({"275657": [[2, 2]], "275658": [[1, 1]]})
    assert (part.recorded_pb, part.delivered_pb, part.sections) == (2550.0, 3100.0, 2)
    assert found.integrate({}).recorded_pb == 0.0


def test_the_simple_table_in_any_order(table):
    found = table("# my luminosity\n#\nrun,lumi,recorded_nb\n2,1,30\n\n1,7,10\n1,2,20.5\n")
    assert found.number.tolist() == [1 << 32 | 2, 1 << 32 | 7, 2 << 32 | 1]
    np.testing.assert_allclose(found.recorded, [0.0205, 0.01, 0.03])
    whole = found.integrate({"1": [[2, 2], [7, 7]]})
    assert whole.recorded_pb == pytest.approx(0.0305)
    assert whole.delivered_pb is None


def test_sections_missing_in_the_table_are_listed_and_refused(table, caplog):
    found = table(BRIL.format(unit="pb"))
    processed = {"275657": [[1, 5]], "275659": [[3, 3]]}
    with pytest.raises(
        InputError, match=r"lacks 3 of 6 processed .*\(275657:4-5, 275659:3\).*brilcalc lumi --byls"
    ):
        found.integrate(processed)
    with pytest.raises(InputError, match="lacks 3 of 6"):
        found.integrate(processed, tolerance=0.49)
    with caplog.at_level(logging.WARNING):
        part = found.integrate(processed, tolerance=0.5)
    assert part.missing == {"275657": [[4, 5]], "275659": [[3, 3]]}
    assert part.recorded_pb == 3500.25
    assert "lacks 3 of 6" in caplog.text
    assert not found.integrate({"275657": [[1, 2]]}).missing


def test_outputs_of_several_calls_may_follow_each_other(table):
    one = BRIL.format(unit="pb")
    two = one.replace("27565", "27600").replace("(/pb)", "(/nb)")
    both = table(one + two)
    assert both.integrate({"276007": [[1, 3]]}).recorded_pb == pytest.approx(3.50025)
    assert both.integrate({"275657": [[1, 3]]}).recorded_pb == pytest.approx(3500.25)


def test_a_header_without_its_hash(table):
    assert (
        table(BRIL.format(unit="pb").replace("#run", "run")).integrate({"275658": [[1, 1]]}).recorded_pb == 50
    )


def test_many_sections_add_up(table):
    rng = np.random.default_rng(1)
    values = rng.uniform(0, 1, 3000)
    rows = [
        f"{run},{lumi},{values[(run - 1) * 1000 + lumi - 1]!r}"
        for run in (1, 2, 3)
        for lumi in range(1, 1001)
    ]
    rows = [rows[i].replace("np.float64(", "").replace(")", "") for i in rng.permutation(len(rows))]
    found = table("run,lumi,recorded_pb\n" + "\n".join(rows))
    part = found.integrate({"1": [[5, 900]], "3": [[1, 10], [100, 1000]]})
    expected = values[4:900].sum() + values[2000:2010].sum() + values[2099:3000].sum()
    assert part.recorded_pb == pytest.approx(expected, rel=1e-12)
    assert part.sections == 896 + 10 + 901


ROW = "275658:5021,1:1,06/25/16 08:01:00,STABLE BEAMS,6500,100.0,50.0,22.9,HFOC"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("(/ub)", "(hz/ub)", r"line 2: column delivered\(hz/ub\) has unit 'hz/ub'"),
        ("(/ub)", "", "line 2: .*no column recorded"),
        ("100.0,50.0", "100.0,nan", "line 6: luminosity 'nan'"),
        ("100.0,50.0", "100.0,inf", "line 6: luminosity 'inf'"),
        ("100.0,50.0", "100.0,-1", "line 6: luminosity '-1'"),
        ("100.0,50.0", "100.0,5_0", "line 6: luminosity '5_0'"),
        ("100.0,50.0", "100.0,", "line 6: luminosity ''"),
        ("100.0,50.0", "50.0,100.0", "line 6: 100.0 recorded of 50.0 delivered"),
        (",22.9,HFOC", "", "line 6: 7 fields, the header has 9: the line may be cut"),
        ("1:1,06/25/16 08:01", "1:2,06/25/16 08:01", "line 6: ls '1:2'"),
        ("1:1,06/25/16 08:01", "1,06/25/16 08:01", "line 6: ls '1'"),
        ("1:1,06/25/16 08:01", "0:0,06/25/16 08:01", "line 6: ls '0'"),
        ("275658:5021,1:1", "275657:5021,2:2", "line 6: run 275657, section 2 is there twice .line 4."),
        ("275658:5021", "-5:5021", "line 6: run '-5'"),
        (ROW + "\n", "", "line 8: the rows add up to 0.00350025/pb recorded, the summary says 0.00355025/pb"),
        ("#run:fill", "#fill", "line 3: a row before the header"),
    ],
)
def test_damaged_tables_are_refused_by_file_and_line(table, old, new, why):
    text = BRIL.format(unit="ub")
    assert old in text
    with pytest.raises(InputError, match=rf"lumi\.csv, {why}"):
        table(text.replace(old, new))


def test_other_files_are_refused(table, tmp_path):
    with pytest.raises(InputError, match="has no luminosity section"):
        table("")
    with pytest.raises(InputError, match="has no luminosity section"):
        table("run,lumi,recorded_pb\n")
    with pytest.raises(InputError, match="line 1: a printed table; ask brilcalc for --output-style csv"):
        table("+-----+\n| run:fill | ls |\n")
    with pytest.raises(InputError, match="column recorded_xb has unit '/xb'"):
        table("run,lumi,recorded_xb\n1,1,1\n")
    with pytest.raises(InputError, match=r"absent\.csv: the luminosity table cannot be read \(No such file"):
        LuminosityTable.read(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"run,lumi,recorded_pb\n\xff\xfe")
    with pytest.raises(InputError, match="is not a text file"):
        LuminosityTable.read(tmp_path / "binary.csv")
    with pytest.raises(InputError, match="line 4: a second header with other columns"):
        table("#run,lumi,delivered_pb,recorded_pb\n1,1,2,1\n\n#run,lumi,recorded_pb\n1,2,1\n")
