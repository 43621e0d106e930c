"""The table of forty faults: each one made for real, and whether what comes of it is what was asked.

    python benchmarks/faults/table.py [pytest arguments]

With arguments nothing is written to results/. A row is met when all its tests pass; a row of which a test was skipped (no root, no German locale, ...) is not tried.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest
from common import publish

ROOT = Path(__file__).resolve().parents[2]
#: What goes wrong, and the outcome asked for.
ROWS = {
    1: ("ROOT file of zero bytes", "put aside; never counted as 0 events"),
    2: ("truncated in the header", "put aside by name"),
    3: ("truncated in the data", "seen before reading; no partial chunk is used"),
    4: ("last 500 bytes missing", "seen before reading"),
    5: ("something appended", "refused or put aside"),
    6: ("flipped bit, zstd or uncompressed", "verify's checksums and the columns' ranges see it"),
    7: ("flipped bit, zlib, lz4, lzma", "put aside with its range, no crash"),
    8: ("login page in place of a file", "said to be one; not tried again"),
    9: ("missing file", "all missing ones listed at once"),
    10: ("missing tree", "refused with the trees that are there"),
    11: ("missing branch in one of many files", "named before any work"),
    12: ("wrong type, jagged for flat", "named; no cast that loses information"),
    13: ("NaN or infinity in a branch", "refused or counted, by column; never lost in the overflow"),
    14: ("constant columns", "a scaler refuses by name; nothing is divided by 0"),
    15: ("file with zero events", "valid, counted as 0"),
    16: ("zero events after the cuts", "complete; the p-value is null, not 0 or 1"),
    17: ("negative and zero weights", "sums of squares, effective number; no toys from negative bins"),
    18: ("one huge weight", "reported; nothing is stated that rests on one event"),
    19: ("same file twice", "refused with both names"),
    20: ("same content: copy, link, relative path", "refused with both names"),
    21: ("same events in two files", "refused by run, lumi and event"),
    22: ("overlapping primary datasets", "each event once, the number reported"),
    23: ("lumi JSON unsorted, nested, run twice", "united or refused; equal to a loop over sections"),
    24: ("lumi JSON of another year", "refused with both ranges of runs"),
    25: ("worker killed", "no bit differs"),
    26: ("a range that kills every worker", "put aside by its range; the rest finishes"),
    27: ("driver killed", "the rerun goes on; no byte differs"),
    28: ("scheduler lost", "named; the rerun goes on"),
    29: ("out of memory", "the range is halved, or named"),
    30: ("remote hangs or drips", "given up in time, tried again"),
    31: ("HTTP 500, 503, reset", "tried again; named if it lasts"),
    32: ("disk full", "named; nothing under a final name; goes on when there is room"),
    33: ("output without permission", "refused before the first event"),
    34: ("damaged or stale chunk, checkpoint, record", "made again or refused, never used"),
    35: ("pickle that runs code", "refused everywhere"),
    36: ("misspelt key, wrong kind or unit", "refused with the nearest key"),
    37: ("bin edges and windows that contradict", "refused with the two numbers"),
    38: ("scores NaN, out of range, tied", "refused; ties cut to the efficiency asked"),
    39: ("empty regions, one filled bin", "no crash; exact Poisson on a bound, or a refusal"),
    40: ("fold leak, equal seeds, locale, model of another mass", "refused; no bit depends on the desk"),
}  # fmt: skip


class Collector:
    """A pytest plugin that keeps what became of every test of a row."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.outcomes: dict[int, dict[str, tuple[str, str]]] = defaultdict(dict)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            self.rows[item.nodeid] = [int(m.args[0]) for m in item.iter_markers("fault")]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for row in self.rows.get(report.nodeid, []):
            before = self.outcomes[row].get(report.nodeid, ("passed", ""))
            if before[0] == "passed":
                self.outcomes[row][report.nodeid] = (report.outcome, self._why(report))

    @staticmethod
    def _why(report: pytest.TestReport) -> str:
        if report.outcome == "skipped":
            return str(report.longrepr[-1]).removeprefix("Skipped: ") if report.longrepr else ""
        crash = getattr(report.longrepr, "reprcrash", None)
        return crash.message.splitlines()[0] if crash is not None else ""


def verdict(outcomes: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """(met, not met or not tried; why) of one row."""
    for state, word in (("failed", "not met"), ("skipped", "not tried")):
        found = [(name, why) for name, (outcome, why) in outcomes.items() if outcome == state]
        if found:
            name, why = found[0]
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return word, f"{name.rpartition('::')[2]}{more}: {' '.join(why.split())[:200]}"
    return ("met", "") if outcomes else ("not tried", "no test")


def main(arguments: list[str]) -> dict[str, Any]:
    """Run the tests and fill the table."""
    collector = Collector()
    code = pytest.main(
        ["-q", "--no-header", "-rN", "--tb=no", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}",
         str(ROOT / "tests" / "faults"), *arguments],
        plugins=[collector],
    )  # fmt: skip
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"pytest ended with {code!s} before the table was full")
    rows = []
    for row, (fault, asked) in ROWS.items():
        state, why = verdict(collector.outcomes[row])
        rows.append({"row": row, "fault": fault, "asked": asked, "state": state, "why": why, "tests": len(collector.outcomes[row])})  # fmt: skip
        print(f"  {row:>2}  {fault:<54} {asked:<70} {state}")
        if why:
            print(f"      {why}")
    met, tried = (sum(r["state"] in states for r in rows) for states in (("met",), ("met", "not met")))
    return {"faults_met": met, "faults_tried": tried, "rows": rows}


if __name__ == "__main__":
    figures = main(sys.argv[1:])
    if sys.argv[1:]:  # a part of the tests fills no table
        print(json.dumps(figures))
    else:
        publish("faults", figures)
