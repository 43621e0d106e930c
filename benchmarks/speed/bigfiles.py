"""Large NanoAOD-shaped files for the speed figures: made up, but with the contents, types and density of the real thing.

    python benchmarks/speed/bigfiles.py {level1,dijet} PATH EVENTS [zstd|lzma] [ttree|rntuple] [BRANCHES]

Level 1: CMS NanoAOD stores five crossings (bx -2 to 2) of each collection; about 2 e/gamma, 2 jets and 0.15 muons each
here, pT in steps of 0.5 GeV as the trigger has it. Dijet: two to four large-radius jets, values truncated as NanoAOD does.
BRANCHES pads a TTree to that many branches: real NanoAOD has about 1,500, most of them trigger bits that compress to
nothing, and opening a file costs in proportion. In an RNTuple a collection is one field of records (``FatJet.pt``).
The same seed gives the same contents.
"""

import mmap
import shutil
import sys
from pathlib import Path
from uuid import UUID, uuid5

import awkward as ak
import numpy as np
import uproot
from numpy.random import Generator

BASKET = 50_000
#: zstd 5 as in the recompressed files of the 200 Gbps study; LZMA 9 is what CMS writes NanoAOD with.
CODECS = {"zstd": uproot.ZSTD(5), "lzma": uproot.LZMA(9)}
CROSSINGS = 5
LEVEL1 = {"L1EG": 2.0, "L1Mu": 0.15, "L1Jet": 2.0}
#: Collections that only pad a file, with their mean number per event, and the branches each has.
PADDING = {"Jet": 6.0, "Electron": 0.4, "Muon": 0.4, "Tau": 0.8}
PADDING_FIELDS = 60


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
        pt = (5 + np.floor(rng.exponential(16, total)) / 2).astype(np.float32)
        crossing = np.repeat(np.arange(n * CROSSINGS), per_bx.ravel())
        out[name] = jagged(
            per_bx.sum(axis=1),
            pt=pt[np.lexsort((-pt, crossing))],  # the trigger ranks the objects of a crossing
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
    pt = np.minimum(pt, 2500.0)
    pt = pt[np.lexsort((-pt, np.repeat(np.arange(n), counts)))]
    values = {
        "pt": pt,
        "eta": np.clip(rng.normal(0, 0.6, total), -1.5, 1.5),
        "phi": rng.uniform(-np.pi, np.pi, total),
    }
    values |= {"mass": pt * rng.beta(2, 12, total), "msoftdrop": pt * rng.beta(1, 12, total), **shape}
    return {"FatJet": jagged(counts, **{k: truncate(v) for k, v in values.items()})}


CONTENTS = {"level1": level1, "dijet": dijet}


def padding(n: int, branches: int, rng: Generator) -> dict:
    """Columns that nobody reads, ``branches`` of them: collections of offline objects, and trigger bits for the rest."""
    out: dict = {}
    for name, mean in PADDING.items():
        if branches <= PADDING_FIELDS:
            break
        counts = rng.poisson(mean, n)
        values = truncate(rng.exponential(40, int(counts.sum())))
        out[name] = jagged(counts, **{f"v{i}": np.roll(values, i) for i in range(PADDING_FIELDS)})
        branches -= PADDING_FIELDS + 1  # the counter is a branch too
    for i in range(branches):
        out[f"HLT_path{i}"] = rng.random(n) < 0.002
    return out


def block_of(kind: str, start: int, n: int, seed: int, width: int) -> dict:
    """All columns of events ``start`` to ``start + n``; ``width``: branches wanted in all, 0 for no padding."""
    rng = np.random.default_rng([seed, start // BASKET])
    columns = CONTENTS[kind](n, rng)
    rows = np.arange(start, start + n)
    columns["run"] = np.full(n, 900_000, np.uint32)
    columns["luminosityBlock"] = (rows // 1000 + 1).astype(np.uint32)
    columns["event"] = (rows + 1).astype(np.uint64)
    have = sum(len(c.fields) + 1 if isinstance(c, ak.Array) else 1 for c in columns.values())
    return columns | padding(n, max(width - have, 0), rng)


def make(
    path: Path, kind: str, events: int, *, codec: str = "zstd", form: str = "ttree", seed: int = 1, width: int = 0
) -> Path:  # fmt: skip
    """Write ``events`` events to ``path`` unless it is there, a basket or cluster of 50,000 at a time."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with uproot.recreate(partial, compression=CODECS[codec]) as file:
        for start in range(0, events, BASKET):
            columns = block_of(kind, start, min(BASKET, events - start), seed, width)
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


def copies(path: Path, number: int) -> list[Path]:
    """``number`` files with the events of ``path``, each with a UUID of its own, made where they are missing.

    The bytes are copied and every record of the file's UUID (its header and its top directory) is overwritten, so to a
    reader they are different files, and to the operating system different bytes on disk. Event numbers repeat.
    """
    with uproot.open(path) as file:
        old: UUID = file.file.uuid
    made = []
    for i in range(number):
        copy = path.with_name(f"{path.stem}_copy{i}.root")
        made.append(copy)
        if copy.exists() and copy.stat().st_mtime >= path.stat().st_mtime:
            continue
        partial = copy.with_suffix(".part")
        shutil.copyfile(path, partial)
        with partial.open("r+b") as handle, mmap.mmap(handle.fileno(), 0) as raw:
            at = raw.find(old.bytes)
            while at >= 0:
                raw[at : at + 16] = uuid5(old, str(i)).bytes
                at = raw.find(old.bytes, at + 16)
        partial.rename(copy)
    return made


if __name__ == "__main__":
    kind, path, events, *rest = sys.argv[1:]
    codec, form, width = [*rest, *("zstd", "ttree", "0")[len(rest) :]]
    print(make(Path(path), kind, int(events), codec=codec, form=form, width=int(width)))
