"""All input files are checked before any work starts, and everything that is wrong is said at once."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false, reportCallIssue=false, reportOperatorIssue=false

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .core import IDENTITY_BRANCHES
from .features import Features
from .fileset import is_url

#: Collections whose branches are one list per event.
COLLECTIONS = ("FatJet", "Jet", "Muon", "Electron", "Photon", "Tau", "L1EG", "L1Mu", "L1Jet", "L1EtSum")
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


@dataclass(frozen=True)
class FileRecord:
    """One input file that passed: enough to find it again and to know that it is still the same."""

    path: str
    uuid: str
    entries: int
    size: int
    sum_genweight: float | None
    gen_events: int | None
    by_entry: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)


def stored_end(path: Path) -> tuple[int, int]:
    """(fEND of a ROOT file's header, the file's size) in bytes; they differ when the file was cut or appended to."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(64)
    if size == 0:
        raise InputError("is empty")
    if head[:4] != b"root":
        hint = ": it looks like a web page, so a login or proxy may have expired" if b"<" in head[:16] else ""
        raise InputError(f"is not a ROOT file{hint}")
    if len(head) < 24:
        raise InputError(f"is cut short: {size} bytes are left of its header")
    version = int.from_bytes(head[4:8], "big")
    end = int.from_bytes(head[12:20] if version >= 1_000_000 else head[12:16], "big")
    return end, size


def _check_branches(tree: Any, features: Features, by_entry: bool) -> None:
    available = set(tree.keys(recursive=False))
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
        kind = str(tree[name].typename)
        plain, jagged = kind.removesuffix("[]"), kind.endswith("[]")
        wants = name.split("_")[0] in COLLECTIONS
        if plain not in NUMBERS or (name in IDENTITY_BRANCHES and "int" not in plain):
            raise InputError(f"branch {name} has type {kind}, expected numbers")
        if jagged != wants and (wants or name in IDENTITY_BRANCHES):
            raise InputError(
                f"branch {name} has type {kind}, expected {'a list' if wants else 'one number'} per event"
            )


def _runs(file: Any) -> tuple[float | None, int | None]:
    if "Runs" not in file or "genEventSumw" not in file["Runs"]:
        return None, None
    runs = file["Runs"].arrays(["genEventSumw", "genEventCount"], library="np")
    return float(runs["genEventSumw"].sum()), int(runs["genEventCount"].sum())


def check_file(path: str, features: Features, by_entry: bool = False) -> FileRecord:
    """Check one file; raises `InputError` whose text continues "PATH ..."."""
    import uproot

    size = -1
    if not is_url(path):
        if not Path(path).exists():
            raise InputError("does not exist")
        if Path(path).is_dir():
            raise InputError("is a folder, expected a ROOT file")
        end, size = stored_end(Path(path))
        if end != size:
            what = "was cut short" if size < end else "has something appended"
            raise InputError(f"{what}: its header says {end} bytes, it has {size}")
    try:
        with uproot.open(path) as file:
            if "Events" not in file:
                trees = [k for k, c in file.classnames(cycle=False).items() if c == "TTree" or "RNTuple" in c]
                raise InputError(
                    f"has no tree Events, so it is not NanoAOD; it has {', '.join(trees) or 'no tree'}"
                )
            tree = file["Events"]
            _check_branches(tree, features, by_entry)
            total, events = _runs(file)
            return FileRecord(path, str(file.file.uuid), int(tree.num_entries), size, total, events, by_entry)
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
        if not is_url(record.path):
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


def preflight(
    paths: Mapping[str, Sequence[str]], features: Features, by_entry: Collection[str] = ()
) -> dict[str, list[FileRecord]]:
    """Check every file of every dataset; raises one `InputError` that lists all problems, or returns the records.

    ``by_entry``: the datasets whose events have no run, luminosityBlock and event and are known by their entry number.
    """
    problems: list[str] = []
    found: dict[str, list[FileRecord]] = {}
    for dataset, files in paths.items():
        found[dataset] = []
        for path in files:
            try:
                found[dataset].append(check_file(path, features, dataset in by_entry))
            except InputError as error:
                problems.append(f"{path} {error}")
    problems += _same_file([(d, r) for d, rs in found.items() for r in rs])
    if problems:
        text = "\n".join(f"  {p}" for p in problems)
        raise InputError(f"{len(problems)} of the input files cannot be used:\n{text}")
    return found
