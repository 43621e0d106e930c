"""What `process` costs against the floor: uproot reading and decompressing the same branches in the same ranges.

    python benchmarks/speed/ratios.py [--quick]

CPU seconds of one process, floor and chain in turn, the best of each taken: zstd and LZMA TTrees, RNTuple against its
own floor. Then the fixed cost of a range in a file of 1,500 branches, and ten systematic variations against none.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import uproot
from case import KINDS, Case, case_of, cpu, file_of, finish
from elsewhere.errors import InputError
from elsewhere.processors.core import Recipe
from elsewhere.processors.features import load_features
from elsewhere.processors.nuisances.jets import JetEnergyScale
from elsewhere.processors.preflight import preflight
from elsewhere.processors.reading import open_tree, wanted_branches
from elsewhere.processors.stream import best_chunk, split

#: (name of the ratio, codec, form, events, events of a smoke run); LZMA is slow to write and needs fewer.
FORMS = (
    ("zstd", "zstd", "ttree", 500_000, 100_000),
    ("lzma", "lzma", "ttree", 100_000, 50_000),
    ("rntuple", "zstd", "rntuple", 500_000, 100_000),
)
WIDTH = 1_500
#: Five sources of the jet energy scale, up and down: ten kinematic variations, each with features and scores of its own.
SOURCES = (0.005, 0.01, 0.015, 0.02, 0.025)
JETS = {"l1": ("L1Jet", "L1EtSum"), "dijet": ("FatJet", None)}


def stored_names(path: Path, kind: str) -> tuple[Any, list[str]]:
    """The Events tree of a file and the names in it of the branches the features need (FatJet_pt is FatJet.pt in an RNTuple)."""
    tree = uproot.open(path, object_cache=None, array_cache=None)["Events"]
    names = {key.replace(".", "_"): key for key in tree.keys(recursive=True)}
    return tree, [names[b] for b in wanted_branches(Recipe(load_features(kind)), "big", names)]


def floor_cpu(path: Path, kind: str, ranges: list[tuple[int, int]]) -> float:
    """CPU seconds of reading and decompressing the branches in ``ranges``; the file is open already."""
    tree, branches = stored_names(path, kind)
    start = time.process_time()
    for first, last in ranges:
        tree.arrays(branches, entry_start=first, entry_stop=last, library="ak", how=dict)
    return time.process_time() - start


def against_floor(case: Case, path: Path, repeats: int) -> tuple[float, float]:
    """(floor, whole chain) in CPU seconds on one file, the best of ``repeats`` of each in turn, after one to warm up."""
    ranges = [(u.start, u.stop) for u in split(case.records, best_chunk(case.features), {})]
    case.run()
    floor, ours = [], []
    for _ in range(repeats):
        floor.append(floor_cpu(path, case.kind, ranges))
        ours.append(cpu(case.run))
    return min(floor), min(ours)


def form_ratio(kind: str, form: tuple[str, str, str, int, int], quick: bool) -> dict[str, Any]:
    """One file's figures; a form that `process` cannot read has its floor, no ratio, and the reason."""
    name, codec, layout, full, small = form
    events = small if quick else full
    path = file_of(kind, events, codec, layout)
    found: dict[str, Any] = {f"{kind}_bytes_per_event_{name}": path.stat().st_size / events}
    try:
        case = case_of(kind, [path], f"ratio_{name}")
    except InputError as error:
        chunk = best_chunk(load_features(kind))
        whole = [(i, min(i + chunk, events)) for i in range(0, events, chunk)]
        floor = min(floor_cpu(path, kind, whole) for _ in range(3))
        return {
            **found,
            f"{kind}_floor_cpu_s_{name}": floor,
            f"{kind}_floor_ratio_{name}": None,
            f"{kind}_problem_{name}": str(error).splitlines()[-1].replace(f"{path.parent}/", "").strip(),
        }
    floor, ours = against_floor(case, path, 3 if quick else 5)
    found |= {
        f"{kind}_floor_cpu_s_{name}": floor,
        f"{kind}_process_cpu_s_{name}": ours,
        f"{kind}_floor_ratio_{name}": ours / floor,
    }
    if name == "zstd":
        found[f"{kind}_events_per_s_per_core"] = events / ours
        found[f"{kind}_output_bytes_per_event"] = case.output_bytes() / events
    shutil.rmtree(case.folder)
    return found


def range_costs(path: Path, chunk: int) -> tuple[float, float, float | None]:
    """CPU seconds of the preflight, of the first range (which opens the file) and of the median later range, if any."""
    case = case_of("l1", [path], "wide")
    checked = cpu(lambda: preflight({"big": [str(path)]}, case.features))
    open_tree.cache_clear()
    marks: list[float] = []
    case.run(chunk=chunk, progress=lambda _done, _total: marks.append(time.process_time()))
    shutil.rmtree(case.folder)
    first, *later = np.diff(marks).tolist()
    return checked, first, float(np.median(later)) if later else None


def fixed_costs(quick: bool) -> dict[str, float | None]:
    """Ranges of 500 events in a file of 1,500 branches, and in one that has only what is read."""
    events, chunk = (5_000, 500) if quick else (10_000, 500)
    wide, narrow = file_of("l1", events, width=WIDTH), file_of("l1", events)
    range_costs(narrow, chunk)  # libraries are loaded and kernels compiled here
    _, narrow_first, narrow_later = range_costs(narrow, chunk)
    checked, first, later = range_costs(wide, chunk)
    return {
        "wide_preflight_cpu_s": checked,
        "wide_first_range_cpu_s": first,
        "wide_later_range_cpu_s": later,
        "narrow_first_range_cpu_s": narrow_first,
        "narrow_later_range_cpu_s": narrow_later,
    }


def variations(kind: str, quick: bool) -> float:
    """CPU of ten variations over none."""
    jets, met = JETS[kind]
    asked = {"big": tuple(JetEnergyScale(f"jes{i}", jets, u, met) for i, u in enumerate(SOURCES))}
    case = case_of(kind, [file_of(kind, 100_000 if quick else 500_000)], "varied")

    def varied() -> None:
        case.run("varied", nuisances=asked)

    varied()
    both = [(cpu(case.run), cpu(varied)) for _ in range(2 if quick else 3)]
    shutil.rmtree(case.folder)
    nominal, shifted = (min(p[i] for p in both) for i in (0, 1))
    return shifted / nominal


def worst(figures: dict[str, Any], name: str) -> float | None:
    """The larger of both kinds' ratios; None where one is missing."""
    found = [figures[f"{kind}_floor_ratio_{name}"] for kind in KINDS]
    return None if None in found else max(found)


def main(quick: bool) -> dict[str, Any]:
    """All of the above."""
    figures: dict[str, Any] = {}
    for kind in KINDS:
        for form in FORMS:
            figures |= form_ratio(kind, form, quick)
    figures |= {f"floor_ratio_{form[0]}": worst(figures, form[0]) for form in FORMS}
    varied = {f"{kind}_ten_variations_over_nominal": variations(kind, quick) for kind in KINDS}
    return figures | fixed_costs(quick) | varied | {"ten_variations_over_nominal": max(varied.values())}


if __name__ == "__main__":
    finish(main("--quick" in sys.argv))
