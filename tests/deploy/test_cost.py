"""Counting a mapped netlist: cells, and the longest run of logic between registers."""

from __future__ import annotations

import pytest
from elsewhere.deploy.cost import VU9P_LUT, count_cells
from elsewhere.errors import InputError

NETLIST = """\
.model score
.inputs clk a b c
.outputs q
.subckt FDRE C=clk CE=$true D=a Q=ra R=$false
.subckt FDSE C=clk CE=$true D=b Q=rb S=$false
.subckt LUT2 I0=ra I1=rb O=n1
.subckt LUT6 I0=n1 I1=ra I2=rb I3=c I4=c I5=c O=n2
.subckt INV I=n2 O=n3
.subckt CARRY4 CI=$false CO[0]=x0 CO[1]=x1 CO[2]=x2 CO[3]=x3 CYINIT=$false DI[0]=n1 O[0]=s0 O[1]=s1 O[2]=s2 O[3]=s3 S[0]=n3
.subckt CARRY4 CI=x3 CO[0]=y0 CO[1]=y1 CO[2]=y2 CO[3]=y3 CYINIT=$false DI[0]=n1 O[0]=t0 O[1]=t1 O[2]=t2 O[3]=t3 S[0]=n1
.names $false
.names t0 other_name_of_t0
1 1
.subckt MUXF7 I0=other_name_of_t0 I1=s0 O=m S=rb
.subckt FDRE C=clk CE=$true D=m Q=rm R=$false
.subckt SRL16E A0=$true CE=$true CLK=clk D=rm Q=rs
.subckt DSP48E2 A[0]=rs B[0]=rs P[0]=p
.subckt LUT1 I0=p O=q
.end
"""


def test_cells_and_depth_of_a_known_netlist():
    cost = count_cells(NETLIST.splitlines(), "Yosys 0.0", 1.26)
    assert cost.lut_sizes == (2, 1, 0, 0, 0, 1)  # the inverter is a look-up table of one input
    assert (cost.lut, cost.ff, cost.carry, cost.muxf, cost.srl, cost.dsp, cost.bram) == (5, 3, 2, 1, 1, 1, 0)
    assert cost.depth == 6  # LUT2, LUT6, INV, two carry blocks, MUXF7; the register starts anew
    assert cost.lut_depth == 3
    assert cost.lut_fraction_vu9p == 5 / VU9P_LUT
    record = cost.to_json()
    assert (record["lut"], record["depth"], record["tool"], record["seconds"]) == (5, 6, "Yosys 0.0", 1.3)
    assert "not a vendor number" in record["accuracy"]


def test_a_register_cuts_the_depth():
    lines = NETLIST.replace(".subckt INV I=n2 O=n3", ".subckt FDRE C=clk D=n2 Q=n3").splitlines()
    assert count_cells(lines, "Yosys").depth == 4  # LUT2, two carry blocks, MUXF7


def test_what_is_not_known_or_has_no_depth_is_an_input_error():
    with pytest.raises(InputError, match="RAM_MAGIC"):
        count_cells([".subckt RAM_MAGIC A=a O=o"], "Yosys")
    with pytest.raises(InputError, match="loop"):
        count_cells([".subckt LUT1 I0=a O=b", ".subckt LUT1 I0=b O=a"], "Yosys")
