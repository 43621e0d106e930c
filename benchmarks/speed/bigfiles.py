"""Large NanoAOD-shaped files for the speed figures: made up, but with the contents, types and density of the real thing.

    python benchmarks/speed/bigfiles.py {level1,dijet} PATH EVENTS [zstd|lzma] [ttree|rntuple]

Level 1: CMS NanoAOD stores five crossings (bx -2 to 2) of each collection; about 2 e/gamma, 2 jets and 0.15 muons each
here, pT in steps of 0.5 GeV as the trigger has it. Dijet: two to four large-radius jets, values truncated as NanoAOD does.
The same seed gives the same file.
"""

import sys
from pathlib import Path

import awkward as ak
import numpy as np
import uproot
from numpy.random import Generator

BASKET = 50_000
CODECS = {"zstd": uproot.ZSTD(5), "lzma": uproot.LZMA(4)}
CROSSINGS = 5
LEVEL1 = {"L1EG": 2.0, "L1Mu": 0.15, "L1Jet": 2.0}


def truncate(values: np.ndarray, bits: int = 10) -> np.ndarray:
    """float32 with ``bits`` of mantissa kept."""
    drop = 23 - bits
    return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(
        np.float32
    )


def jagged(counts: np.ndarray, **contents: np.ndarray) -> ak.Array:
    """A collection of records, one list per event."""
    return ak.zip({name: ak.unflatten(values, counts) for name, values in contents.items()})


def level1(n: int, rng: Generator) -> dict:
    """Columns of n zero-bias crossings."""
    out: dict = {}
    for name, mean in LEVEL1.items():
        per_bx = rng.poisson(mean, (n, CROSSINGS))
        total = int(per_bx.sum())
        bx = np.repeat(np.tile(np.arange(-2, 3, dtype=np.int16), n), per_bx.ravel())
        out[name] = jagged(
            per_bx.sum(axis=1),
            pt=(5 + np.floor(rng.exponential(16, total)) / 2).astype(np.float32),
            eta=truncate(rng.integers(-115, 116, total) * 0.0435),
            phi=truncate((rng.integers(0, 144, total) - 71.5) * np.pi / 72),
            bx=bx,
        )
    kinds = np.tile(np.arange(4, dtype=np.int16), n * CROSSINGS)
    total = len(kinds)
    out["L1EtSum"] = jagged(
        np.full(n, 4 * CROSSINGS),
        pt=(np.floor(rng.exponential(60, total)) / 2).astype(np.float32),
        phi=truncate(rng.uniform(-np.pi, np.pi, total)),
        etSumType=kinds,
        bx=np.tile(np.repeat(np.arange(-2, 3, dtype=np.int16), 4), n),
    )
    return out


def dijet(n: int, rng: Generator) -> dict:
    """Columns of n events with a leading jet above 1.2 TeV."""
    counts = rng.integers(2, 5, n)
    total = int(counts.sum())
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    pt = 200 + rng.exponential(120, total)
    pt[first] = 1210 + rng.exponential(200, n)
    pt[first + 1] = pt[first] * rng.uniform(0.8, 1.0, n)
    tau1 = rng.beta(2, 8, total)
    tau2 = tau1 * rng.beta(6, 3, total)
    shape = {
        "tau1": tau1,
        "tau2": tau2,
        "tau3": tau2 * rng.beta(7, 2, total),
        "tau4": tau2 * rng.beta(6, 3, total),
    }
    values = {"pt": pt, "eta": rng.normal(0, 0.9, total), "phi": rng.uniform(-np.pi, np.pi, total)}
    values |= {"mass": pt * rng.beta(2, 12, total), "msoftdrop": pt * rng.beta(1, 12, total), **shape}
    return {"FatJet": jagged(counts, **{k: truncate(v) for k, v in values.items()})}


CONTENTS = {"level1": level1, "dijet": dijet}


def make(
    path: Path, kind: str, events: int, *, codec: str = "zstd", form: str = "ttree", seed: int = 1
) -> Path:
    """Write ``events`` events to ``path`` unless it is there, a basket or cluster of 50,000 at a time."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with uproot.recreate(partial, compression=CODECS[codec]) as file:
        for block, start in enumerate(range(0, events, BASKET)):
            n = min(BASKET, events - start)
            rows = np.arange(start, start + n)
            columns = CONTENTS[kind](n, np.random.default_rng([seed, block]))
            columns["run"] = np.full(n, 900_000, np.uint32)
            columns["luminosityBlock"] = (rows // 1000 + 1).astype(np.uint32)
            columns["event"] = (rows + 1).astype(np.uint64)
            if start == 0:
                types = {
                    k: v.type.content if isinstance(v, ak.Array) else v.dtype for k, v in columns.items()
                }
                if form == "rntuple":
                    file.mkrntuple("Events", types)
                else:
                    file.mktree("Events", types, counter_name=lambda c: f"n{c}")
            file["Events"].extend(columns)
    partial.rename(path)
    return path


if __name__ == "__main__":
    kind, path, events, *rest = sys.argv[1:]
    options = dict(zip(("codec", "form"), rest, strict=False))
    print(make(Path(path), kind, int(events), **options))
