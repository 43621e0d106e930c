"""All input files are checked before any work starts, and everything that is wrong is said at once."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import awkward as ak
import cloudpickle

from ..errors import InputError
from .core import IDENTITY_BRANCHES
from .features import Features
from .fileset import is_url, stored_end
from .places import PATIENCE, RemoteSettings, candidates
from .reading import Tree
from .remote import attempt, open_root

#: Collections whose branches are one list per event.
COLLECTIONS = (
    "FatJet",
    "Jet",
    "Muon",
    "Electron",
    "Photon",
    "Tau",
    "L1EG",
    "L1Mu",
    "L1Jet",
    "L1EtSum",
    "L1CaloRegion",
)
#: Files of other machines that are checked at the same time.
ASK_AT_ONCE = 16
NUMBERS = (
    "bool",
    "int8_t",
    "uint8_t",
    "int16_t",
    "uint16_t",
    "int32_t",
    "uint32_t",
    "int64_t",
    "uint64_t",
    "float",
    "double",
)
#: The types among them that hold fractions.
FRACTIONS = frozenset({"float", "double"})
Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class FileRecord:
    """One input file that passed: enough to find it again and to know that it is still the same.

    ``kinds``: the type of each branch's numbers; ``clusters``: entries at which a basket of every branch ends; a range that ends there decompresses nothing twice.
    """

    path: str
    uuid: str
    entries: int
    size: int
    sum_genweight: float | None
    gen_events: int | None
    by_entry: bool = False
    clusters: tuple[int, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` undoes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FileRecord:
        """A record written by `to_json`."""
        return cls(**{**raw, "clusters": tuple(raw["clusters"])})


@dataclass(frozen=True)
class Quarantined:
    """A file of which no event was used, and why. ``uuid`` and ``events`` are None where the file could not be opened."""

    dataset: str
    path: str
    uuid: str | None
    events: int | None
    reason: str


def _check_branches(tree: Tree, features: Features, by_entry: bool) -> None:
    available = tree.names
    identity = () if by_entry else IDENTITY_BRANCHES
    missing = [b for b in features.branches if b not in available]
    if missing:
        raise InputError(
            f"has no branch {', '.join(missing)} (feature set '{features.features.name}' needs {len(features.branches)})"
        )
    unknown = [b for b in identity if b not in available]
    if unknown:
        raise InputError(
            f"has no branch {', '.join(unknown)}, by which events are told apart and divided into folds; if its events "
            "have no such numbers, give its dataset 'identity: entry'"
        )
    for name in (*identity, *features.branches):
        kind = tree.type_of(name)
        plain, jagged = kind.removesuffix("[]"), kind.endswith("[]")
        wants = name.split("_")[0] in COLLECTIONS
        if plain not in NUMBERS or (name in IDENTITY_BRANCHES and "int" not in plain):
            raise InputError(f"branch {name} has type {kind}, expected numbers")
        if jagged != wants and (wants or name in IDENTITY_BRANCHES):
            raise InputError(
                f"branch {name} has type {kind}, expected {'a list' if wants else 'one number'} per event"
            )


def _runs(file: Any) -> tuple[float | None, int | None]:
    if "Runs" not in file:
        return None, None
    there = set(file["Runs"].keys())
    tail = "" if "genEventSumw" in there else "_"  # as older NanoAOD wrote it
    names = [n for n in (f"genEventSumw{tail}", f"genEventCount{tail}") if n in there]
    if not names:
        return None, None
    runs = file["Runs"].arrays(names)
    sums = {n.rstrip("_"): ak.to_numpy(runs[n]).sum() for n in names}
    weights, events = sums.get("genEventSumw"), sums.get("genEventCount")
    return None if weights is None else float(weights), None if events is None else int(events)


def _check_local(path: Path) -> None:
    """What can be said of a file of this machine without opening it as ROOT."""
    if not path.exists():
        raise InputError("does not exist")
    if path.is_dir():
        raise InputError("is a folder, expected a ROOT file")
    end, size = stored_end(path)
    if end != size:
        what = "was cut short" if size < end else "has something appended"
        raise InputError(f"{what}: its header says {end} bytes, it has {size}")


def _record(file: Any, path: str, features: Features, by_entry: bool) -> FileRecord:
    """The record of an opened file."""
    if "Events" not in file:
        trees = [k for k, c in file.classnames(cycle=False).items() if c == "TTree" or "RNTuple" in c]
        raise InputError(f"has no tree Events, so it is not NanoAOD; it has {', '.join(trees) or 'no tree'}")
    tree = Tree.of(file["Events"])
    _check_branches(tree, features, by_entry)
    total, events = _runs(file)
    size, clusters = file.file.source.num_bytes, tree.clusters(features.branches)
    kinds = {name: tree.type_of(name).removesuffix("[]") for name in features.branches}
    return FileRecord(path, str(file.file.uuid), tree.entries, size, total, events, by_entry, clusters, kinds)


def check_file(
    path: str, features: Features, by_entry: bool = False, remote: RemoteSettings = PATIENCE
) -> FileRecord:
    """Check one file, of this machine or another; raises `InputError` whose text continues "PATH ..."."""
    if not is_url(path) and candidates(path, remote) == [path]:
        _check_local(Path(path))

    def work(place: str) -> FileRecord:
        with open_root(place, remote) as file:
            return _record(file, path, features, by_entry)

    try:
        return attempt(path, remote, work)[0]
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise anything; it is named, not hidden
        raise InputError(
            f"cannot be read ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        ) from error


def _same_file(records: Sequence[tuple[str, FileRecord]]) -> Iterator[str]:
    """The same file by another path, link or copy, as messages."""
    places: dict[Any, str] = {}
    contents: dict[tuple[str, int], str] = {}
    for dataset, record in records:
        if not is_url(record.path) and Path(record.path).exists():
            status = os.stat(record.path)
            place = (status.st_dev, status.st_ino)
            if place in places:
                yield f"{record.path} ({dataset}) is the same file as {places[place]}"
                continue
            places[place] = f"{record.path} ({dataset})"
        content = (record.uuid, record.entries)
        if content in contents:
            yield f"{record.path} ({dataset}) is a copy of {contents[content]} (same UUID and entries)"
        contents[content] = f"{record.path} ({dataset})"


@dataclass(frozen=True)
class _Check:
    """One file to check."""

    dataset: str
    path: str
    features: Features
    by_entry: bool
    remote: RemoteSettings


def _checked(job: _Check) -> FileRecord | Quarantined:
    """The record of a file, or why it cannot be used."""
    try:
        return check_file(job.path, job.features, job.by_entry, job.remote)
    except InputError as error:
        why = str(error).removeprefix(f"{job.path}: ")
        return Quarantined(job.dataset, job.path, None, None, f"{job.path} {why}")


def _at_once(function: Callable[[Any], Any], jobs: Sequence[_Check]) -> Iterator[Any]:
    """Here; other machines are asked at the same time, so that one that does not answer costs its time-out only once."""
    elsewhere = any(is_url(candidates(j.path, j.remote)[0]) for j in jobs)
    with ThreadPoolExecutor(ASK_AT_ONCE if elsewhere else 1) as pool:
        yield from pool.map(function, jobs)


def over_processes(workers: int) -> Map:
    """A ``run`` for `preflight`: opening a file of 1,500 branches is most of a second of CPU, which threads cannot share."""

    def run(function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        packed = [
            cloudpickle.dumps((function, job)) for job in jobs
        ]  # a user's features are not importable there
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(_unpacked, packed, chunksize=8)

    return run


def _unpacked(packed: bytes) -> Any:
    function, job = cloudpickle.loads(packed)
    return function(job)


def _kinds_differ(records: Sequence[tuple[str, FileRecord]]) -> list[tuple[str, FileRecord, str]]:
    """Files of a dataset one of whose branches holds whole numbers where the dataset's first file has fractions, or the
    other way round: the same name does not mean the same there."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    out = []
    for dataset, record in records:
        for name, kind in record.kinds.items():
            known, path = first.setdefault((dataset, name), (kind, record.path))
            if (known in FRACTIONS) != (kind in FRACTIONS):
                out.append(
                    (dataset, record, f"{record.path} branch {name} is {kind}, in {path} it is {known}")
                )
                break
    return out


def preflight(
    paths: Mapping[str, Sequence[str]],
    features: Features,
    by_entry: Collection[str] = (),
    quarantine: list[Quarantined] | None = None,
    remote: RemoteSettings = PATIENCE,
    run: Map | None = None,
) -> dict[str, list[FileRecord]]:
    """Check every file of every dataset; raises one `InputError` that lists all problems, or returns the records.

    ``by_entry``: the datasets whose events have no run, luminosityBlock and event and are known by their entry number.
    ``remote``: patience with files of other machines; ``run(function, jobs)``: checks them elsewhere, results in order. With a ``quarantine`` list files that cannot be used go there instead; a file given twice is an error all the same.
    """
    bad: list[Quarantined] = []
    found: dict[str, list[FileRecord]] = {dataset: [] for dataset in paths}
    jobs = [_Check(d, path, features, d in by_entry, remote) for d, files in paths.items() for path in files]
    for job, result in zip(jobs, (run or _at_once)(_checked, jobs), strict=True):
        if isinstance(result, Quarantined):
            bad.append(result)
        else:
            found[job.dataset].append(result)
    problems = _kinds_differ([(d, r) for d, rs in found.items() for r in rs])
    for dataset, record, reason in problems:
        found[dataset].remove(record)
        bad.append(Quarantined(dataset, record.path, record.uuid, record.entries, reason))
    twice = list(_same_file([(d, r) for d, rs in found.items() for r in rs]))
    if quarantine is None:
        twice = [b.reason for b in bad] + twice
    else:
        quarantine += bad
    if twice:
        text = "\n".join(f"  {p}" for p in twice)
        raise InputError(f"{len(twice)} of the input files cannot be used:\n{text}")
    if bad and not any(found.values()):
        raise InputError("none of the input files can be used:\n" + "\n".join(f"  {b.reason}" for b in bad))
    return found
