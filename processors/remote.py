"""Reading files of other machines: opened within limits, tried again, and at the next place where one fails."""

# uproot's own annotations are unions of everything a file may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import InputError
from .failures import PATH_ERRORS, Kind, classify
from .fileset import is_url
from .places import XROOTD, RemoteSettings, candidates, pause_before, server_of

log = logging.getLogger(__name__)
T = TypeVar("T")

#: A server that failed is asked after the others for so many seconds.
REST = 120.0
_resting: dict[str, float] = {}


@dataclass(frozen=True)
class Delivery:
    """Where a range's bytes came from: server ("local" for this machine), bytes received, reads begun until one succeeded."""

    server: str
    bytes: int
    tries: int


class Unreadable(InputError):
    """No place of a file gave it, after all tries. ``kind`` is transient if waiting longer might have helped, else data."""

    def __init__(self, text: str, kind: Kind = "data") -> None:
        super().__init__(text)
        self.kind: Kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.kind)


def open_root(path: str, settings: RemoteSettings) -> Any:
    """An opened uproot file, of this machine or by root://, https://; raises within the settings' limits.

    `InputError` where the file's header contradicts its size; the library's own errors otherwise, for `classify`.
    ``path`` is one place; `attempt` goes through all of them.
    """
    import uproot

    scheme = urlsplit(path).scheme if is_url(path) else ""
    options: dict[str, Any] = {"object_cache": None, "array_cache": None}
    if scheme in XROOTD:
        from .xrootd import XRootDSource

        options |= {"handler": XRootDSource, "settings": settings}
    elif scheme in {"http", "https"}:
        from .web import WebSource

        options |= {"handler": WebSource, "settings": settings}
    file = uproot.open(path, **options)
    end, size = int(file.file.fEND), file.file.source.num_bytes
    if size is not None and end != size:
        file.close()
        what = "was cut short" if size < end else "has something appended"
        raise InputError(f"{path} {what}: its header says {end} bytes, it has {size}")
    return file


def received(opened: Any) -> int:
    """Bytes that the file of an opened object (file, tree) has taken from its source so far."""
    source = opened.file.source
    wire = getattr(source, "wire", None)
    return source.num_requested_bytes if wire is None else wire.received


def _in_turn(places: Sequence[str]) -> list[str]:
    """Places in their order, those whose server failed lately last."""
    now = time.monotonic()
    return sorted(
        places, key=lambda p: now - _resting.get(server_of(p), -REST) < REST if is_url(p) else False
    )


def _why(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, InputError) else f"{type(error).__name__}: {line}"


def attempt(
    path: str,
    settings: RemoteSettings,
    work: Callable[[str], T],
    drop: Callable[[str], None] = lambda _place: None,
) -> tuple[T, str, int]:
    """``work(place)`` at each place of ``path`` until one succeeds; (its result, the place, how many reads were begun).

    What may pass is tried again after a pause, ``settings.tries`` rounds in all; a place whose data are bad is not asked again;
    a bug is raised as it is, at once. ``drop(place)`` is called after every failure. Raises `Unreadable`, which names every
    place and why it did not give the file.
    """
    left, reasons, begun = candidates(path, settings), {}, 0
    kinds: dict[str, Kind] = {}
    last: Exception | None = None
    for again in range(settings.tries):
        if again:
            time.sleep(pause_before(path, again, settings))
        for place in _in_turn(left):
            begun += 1
            try:
                return work(place), place, begun
            except Exception as error:  # sorted below: a bug goes on as it is
                drop(place)
                kinds[place] = classify(error)
                if kinds[place] == "bug":
                    raise
                last, reasons[place] = error, _why(error)
            log.warning("%s: %s (%s, read %d)", place, reasons[place], kinds[place], begun)
            if kinds[place] == "transient":
                _resting[server_of(place)] = time.monotonic()
            else:
                left.remove(place)
        if not left:
            break
    final = _unreadable(reasons, kinds, begun, last)
    raise final from None if final is last else last


def _unreadable(
    reasons: Mapping[str, str], kinds: Mapping[str, Kind], begun: int, last: Exception | None
) -> InputError:
    if len(reasons) == 1 and isinstance(last, InputError):
        return last
    lines = "; ".join(f"{place}: {why}" for place, why in reasons.items())
    if "transient" in kinds.values():
        cure = "check the servers, the network and your credentials"
        return Unreadable(f"not readable after {begun} tries ({lines}); {cure}", "transient")
    alone = "missing" if isinstance(last, PATH_ERRORS) else "damaged"
    return Unreadable(f"{alone if len(reasons) == 1 else 'missing or damaged'} ({lines})")


def server_name(opened: Any, place: str) -> str:
    """The server that an opened object's bytes come from, after redirection; "local" for this machine."""
    wire = getattr(opened.file.source, "wire", None)
    if wire is not None:
        return wire.server
    return server_of(place) if is_url(place) else "local"
