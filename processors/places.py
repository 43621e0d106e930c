"""Where a file on other machines may be had, how long to wait for it, and how often to try again: settings, no I/O."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import ConfigDict

from ..errors import ConfigError

#: URL schemes of the XRootD protocol.
XROOTD = frozenset({"root", "roots", "xroot", "xroots"})
#: Longest pause between two rounds, in seconds.
LONGEST_PAUSE = 60.0


def server_of(url: str) -> str:
    """HOST or HOST:PORT of a URL, without the user's name."""
    return urlsplit(url).netloc.rpartition("@")[2]


@dataclass(frozen=True)
class RemoteSettings:
    """How patient to be with other machines; seconds and bytes per second. Files of this machine are read without limits.

    A link is cut when no request has finished for ``idle_timeout``, or when it gave less than ``minimum_rate`` over
    ``rate_period`` of waiting: never for the time a file took as a whole. ``tries`` are rounds over all places of a file.
    """

    redirectors: tuple[str, ...] = ()
    connect_timeout: float = 30.0
    idle_timeout: float = 60.0
    minimum_rate: float = 10_000.0
    rate_period: float = 120.0
    tries: int = 4
    pause: float = 1.0

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "idle_timeout", "rate_period"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"remote.{name} is {getattr(self, name)}, expected more than 0 seconds")
        if self.tries < 1 or not self.pause >= 0 or not self.minimum_rate >= 0:
            raise ConfigError(
                f"remote: tries {self.tries}, pause {self.pause}, minimum_rate {self.minimum_rate}; "
                "expected at least 1, 0 and 0"
            )
        for each in self.redirectors:
            parts = urlsplit(each)
            if parts.scheme not in XROOTD or not parts.netloc or parts.path.strip("/"):
                raise ConfigError(
                    f"remote.redirectors: {each!r} is not a server; expected for example root://cms-xrd-global.cern.ch"
                )


#: What is used where nobody asked for anything else.
PATIENCE = RemoteSettings()


def candidates(path: str, settings: RemoteSettings) -> list[str]:
    """Every place of a file, in the order written: the path itself, then the same logical name at each redirector.

    A bare ``/store/...`` is a logical name when there are redirectors, and a path of this machine when there are none.
    """
    if path.startswith("/store/") and settings.redirectors:
        name, places = path, []
    elif urlsplit(path).scheme in XROOTD:
        name, places = "/" + urlsplit(path).path.lstrip("/"), [path]
    else:
        return [path]
    query = f"?{urlsplit(path).query}" if urlsplit(path).query else ""
    places += [f"{r.rstrip('/')}/{name}{query}" for r in settings.redirectors]
    first: dict[str, str] = {}
    for place in places:
        first.setdefault(server_of(place), place)
    return list(first.values())


def pause_before(path: str, again: int, settings: RemoteSettings) -> float:
    """Seconds before round ``again`` (1, 2, ...): doubling, with jitter of half to one and a half.

    The jitter comes of path and round, so that a thousand workers do not come back at once, and a run can be repeated.
    """
    seed = int.from_bytes(hashlib.sha256(f"{path}\0{again}".encode()).digest()[:8], "big")
    jitter = 0.5 + random.Random(seed).random()  # noqa: S311 - spreads load, hides nothing
    return min(settings.pause * 2 ** (again - 1), LONGEST_PAUSE) * jitter
