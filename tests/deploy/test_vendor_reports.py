"""Reports of Vitis HLS and Vivado, in the documented format with made-up numbers."""

from __future__ import annotations

import pytest
from elsewhere.deploy.vendor_reports import VendorReport, read_vitis, read_vivado
from elsewhere.errors import InputError

CSYNTH = """\
<?xml version="1.0" encoding="UTF-8"?>
<profile>
  <ReportVersion><Version>2023.2</Version></ReportVersion>
  <UserAssignments>
    <Part>xcvu9p-flga2104-2L-e</Part>
    <TopModelName>score</TopModelName>
    <TargetClockPeriod>5.00</TargetClockPeriod>
  </UserAssignments>
  <PerformanceEstimates>
    <SummaryOfTimingAnalysis><unit>ns</unit><EstimatedClockPeriod>3.612</EstimatedClockPeriod></SummaryOfTimingAnalysis>
    <SummaryOfOverallLatency>
      <unit>clock cycles</unit>
      <Best-caseLatency>8</Best-caseLatency>
      <Worst-caseLatency>9</Worst-caseLatency>
      <Interval-min>1</Interval-min>
      <Interval-max>1</Interval-max>
    </SummaryOfOverallLatency>
  </PerformanceEstimates>
  <AreaEstimates>
    <Resources><BRAM_18K>3</BRAM_18K><DSP>8</DSP><FF>4321</FF><LUT>23645</LUT><URAM>0</URAM></Resources>
    <AvailableResources><BRAM_18K>4320</BRAM_18K><DSP>6840</DSP><FF>2364480</FF><LUT>1182240</LUT></AvailableResources>
  </AreaEstimates>
</profile>
"""
UTILISATION = """\
| Tool Version : Vivado v.2023.2 (lin64) Build 1 Fri Oct 13 20:13:54 MDT 2023
| Design       : score
| Device       : xcvu9p-flga2104-2L-e
| Design State : Fully Placed

1. CLB Logic
+----------------------------+-------+-------+------------+-----------+-------+
|          Site Type         |  Used | Fixed | Prohibited | Available | Util% |
+----------------------------+-------+-------+------------+-----------+-------+
| CLB LUTs                   | 14321 |     0 |          0 |   1182240 |  1.21 |
|   LUT as Logic             | 14300 |     0 |          0 |   1182240 |  1.21 |
| CLB Registers              |  3456 |     0 |          0 |   2364480 |  0.15 |
| CARRY8                     |  2012 |     0 |          0 |    147780 |  1.36 |
| Block RAM Tile             |   1.5 |     0 |          0 |      2160 |  0.07 |
| DSPs                       |     8 |     0 |          0 |      6840 |  0.12 |
"""


def test_the_estimate_of_vitis(tmp_path):
    path = tmp_path / "csynth.xml"
    path.write_text(CSYNTH)
    found = read_vitis(path)
    assert found == VendorReport(
        "Vitis HLS 2023.2", "xcvu9p-flga2104-2L-e", "HLS estimate", 23645, 4321, 8, 1.5, 9, 1, 5.0, 3.612
    )
    assert found.lut_fraction_vu9p == 23645 / 1_182_240
    path.write_text(CSYNTH.replace("DSP>", "DSP48E>").replace(">9<", ">undef<"))
    assert (read_vitis(path).dsp, read_vitis(path).latency_cycles) == (8, None)


def test_the_utilisation_of_vivado(tmp_path):
    path = tmp_path / "utilisation.rpt"
    path.write_text(UTILISATION)
    wanted = VendorReport("Vivado v.2023.2", "xcvu9p-flga2104-2L-e", "Fully Placed", 14321, 3456, 8, 1.5)
    assert read_vivado(path) == wanted
    path.write_text(UTILISATION.replace("CLB LUTs ", "CLB LUTs*").replace("Fully Placed", "Synthesized"))
    assert (read_vivado(path).lut, read_vivado(path).stage) == (14321, "Synthesized")
    path.write_text(UTILISATION.replace("CLB LUTs", "Slice LUTs").replace("CLB Reg", "Slice Reg"))
    assert read_vivado(path).ff == 3456


@pytest.mark.parametrize("read", [read_vitis, read_vivado])
def test_other_files_are_input_errors(read, tmp_path):
    path = tmp_path / "report"
    with pytest.raises(InputError, match="report"):
        read(path)
    path.write_text("<profile></profile>")
    with pytest.raises(InputError, match=r"no (element|row)"):
        read(path)
