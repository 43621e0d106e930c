"""Reading a root:// file so that every wait ends: uproot's physical layer over the XRootD client, with a watchdog.

The client's own limits do not bound a read. Measured with client 6.2: ``timeout`` of a read is not looked at once its answer has
begun to arrive (a server that stalls inside a basket holds the caller until XRD_STREAMTIMEOUT, 60 s, plus its reconnections, and
one that sends a byte a second holds it for ever), and a lost connection is retried for XRD_CONNECTIONWINDOW times
XRD_CONNECTIONRETRY. So every request here is asynchronous, and the caller waits no longer than `RemoteSettings` say.
"""

# uproot's own annotations are unions of everything a file may hold.
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any
from urllib.parse import urlsplit

from uproot.source.chunk import Chunk, Source

from .places import RemoteSettings, server_of

#: The protocol's limits of one vector read: pieces, and bytes per piece.
PIECES, PIECE_BYTES = 1024, 2_097_136
#: Bounds of one request's bytes. The first request is small enough to arrive in half the idle time at the lowest allowed rate.
SMALLEST, LARGEST = 4_096, 8 << 20
#: Requests under way at a time: the next one travels while this one's bytes come in or are decompressed.
AHEAD = 2

#: Client status codes (XrdCl/XrdClStatus.hh): operation expired, server said no, no such file, login and authentication failed.
EXPIRED, ANSWERED, NOT_FOUND, LOGIN, AUTHENTICATION = 206, 400, 304, 203, 204
#: What a server's own error number (XProtocol.hh) means; any other may pass.
SERVER_ERRORS: dict[int, type[OSError]] = {
    3010: PermissionError, 3011: FileNotFoundError, 3015: IsADirectoryError, 3016: IsADirectoryError, 3030: PermissionError,
}  # fmt: skip


def first_request(settings: RemoteSettings) -> int:
    """Bytes of the first request: `AHEAD` of them arrive within the idle timeout on any link that keeps the minimum rate."""
    return min(max(int(settings.minimum_rate * settings.idle_timeout / AHEAD), SMALLEST), LARGEST)


@cache
def _client() -> Any:
    try:
        from XRootD import client
    except ImportError as error:
        raise ImportError("root:// needs the XRootD client: pip install fsspec-xrootd xrootd") from error
    return client


def configure(settings: RemoteSettings) -> None:
    """Let the client tidy up behind a handle that was given up: XRD_* variables of the environment still win."""
    client = _client()
    for name, value in (
        ("TimeoutResolution", 1),
        ("ConnectionWindow", max(int(settings.connect_timeout), 1)),
        ("ConnectionRetry", 1),
        ("StreamTimeout", max(int(settings.idle_timeout), 1)),
        ("StreamErrorWindow", 0),
    ):
        client.EnvPutInt(name, value)


def failure(status: Any, doing: str) -> OSError:
    """A client status as the OSError that says whether it may pass."""
    text = f"{doing}: {str(status.message).strip()}"
    if status.code == EXPIRED:
        return TimeoutError(text)
    if status.code == NOT_FOUND:
        return FileNotFoundError(text)
    if status.code in {LOGIN, AUTHENTICATION}:
        return PermissionError(text)
    if status.code == ANSWERED:
        return SERVER_ERRORS.get(status.errno, OSError)(text)
    return ConnectionError(text)


_failures: dict[str, int] = {}
_names = itertools.count(1)


def fresh(url: str) -> str:
    """The URL over a connection of its own, if its server has failed in this process before.

    The client keeps one connection per user and host, and a request behind a stalled one waits for it; another user name makes
    another connection. A name given by the user is kept.
    """
    server = server_of(url)
    if server not in _failures or "@" in urlsplit(url).netloc:
        return url
    return url.replace("://", f"://again{_failures[server]}@", 1)


class Pending:
    """The bytes of one range, fetched when somebody needs them; what uproot calls a future."""

    def __init__(self, wire: Wire, start: int, stop: int) -> None:
        self._wire = wire
        self.parts: dict[int, bytes] = {}
        self.missing = stop - start

    def result(self, timeout: float | None = None) -> bytes:  # noqa: ARG002 - uproot's signature
        """The bytes; raises TimeoutError when the server stalls, another OSError when it fails."""
        if self.missing:
            self._wire.wait(self)
        return b"".join(self.parts[at] for at in sorted(self.parts))


#: A range, where its next byte is in the file, and how many bytes (or, in the queue, where it ends).
Piece = tuple[Pending, int, int]


class Wire:
    """One open remote file. All waiting is in `wait` and `_call`, in the caller's thread, and is bounded.

    Requests start at `first_request` bytes and double while they arrive in a tenth of the idle time, so that "no request
    has finished for the idle timeout" means a stalled link and not a slow one. Given up, a wire leaves behind what the client
    holds of it: the buffers of at most `AHEAD` requests and one connection, until the stream timeout has passed.
    """

    def __init__(self, url: str, settings: RemoteSettings) -> None:
        configure(settings)
        self.url, self.settings = url, settings
        self.received = 0
        self._request = first_request(settings)
        self._todo: deque[Piece] = deque()
        self._flying = 0
        self._done: queue.SimpleQueue[tuple[Any, Any, list[Piece], float]] = queue.SimpleQueue()
        self._period_seconds, self._period_bytes = 0.0, 0
        self._lock = threading.RLock()
        self.broken: OSError | None = None
        self._file = _client().File()
        self._call(self._file.open, fresh(url), "open")
        self.size: int = self._call(self._file.stat, False, "stat").size
        #: The server that holds the file, after any redirection.
        self.server: str = str(self._file.get_property("DataServer")).rpartition("@")[2] or server_of(url)

    def _fail(self, error: OSError) -> OSError:
        self.broken = error
        if isinstance(error, (TimeoutError, ConnectionError)):  # of the link, not of the file
            _failures[server_of(self.url)] = next(_names)
        return error

    def _submit(self, doing: str, request: Callable[..., Any], callback: Callable[..., None]) -> Any:
        try:
            return request(callback=callback)
        except ValueError as error:  # the client has lost the file already, and calls it closed
            raise self._fail(ConnectionError(f"{doing}: {server_of(self.url)} was lost ({error})")) from error

    def _call(self, function: Callable[..., Any], argument: Any, doing: str) -> Any:
        """One request whose answer is waited for at most ``connect`` seconds."""
        answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        limit = self.settings.connect_timeout
        status = self._submit(
            doing,
            partial(function, argument, timeout=int(limit) + 1),
            lambda status, value, _hosts: answers.put((status, value)),
        )
        if status.ok:
            try:
                status, value = answers.get(timeout=limit)
            except queue.Empty:
                raise self._fail(
                    TimeoutError(f"{doing}: no answer from {server_of(self.url)} in {limit:g} s")
                ) from None
            if status.ok:
                return value
        raise self._fail(failure(status, doing))

    def ask(self, ranges: Sequence[tuple[int, int]]) -> list[Pending]:
        """Queue byte ranges [start, stop) and send the first requests; nothing is waited for."""
        with self._lock:
            found = []
            for start, stop in ranges:
                end = max(start, min(stop, self.size))
                found.append(Pending(self, start, end))
                if end > start:
                    self._todo.append((found[-1], start, end))
            self._send()
            return found

    def _next_request(self) -> list[Piece]:
        """Pieces (range, start, length) of one vector read, off the front of the queue."""
        pieces: list[Piece] = []
        room = self._request
        while self._todo and room and len(pieces) < PIECES:
            pending, start, stop = self._todo.popleft()
            length = min(stop - start, room, PIECE_BYTES)
            pieces.append((pending, start, length))
            room -= length
            if start + length < stop:
                self._todo.appendleft((pending, start + length, stop))
        return pieces

    def _send(self) -> None:
        while self._todo and self._flying < AHEAD and self.broken is None:
            pieces = self._next_request()
            status = self._submit(
                "read",
                partial(
                    self._file.vector_read,
                    [(start, length) for _, start, length in pieces],
                    timeout=int(2 * self.settings.idle_timeout) + 1,
                ),
                partial(self._arrived, pieces, time.monotonic()),
            )
            if not status.ok:
                raise self._fail(failure(status, "read"))
            self._flying += 1

    def _arrived(self, pieces: list[Piece], began: float, status: Any, answer: Any, _hosts: Any) -> None:
        """What the client's own thread calls."""
        self._done.put((status, answer, pieces, began))

    def wait(self, pending: Pending) -> None:
        """Receive until ``pending`` is whole; raises TimeoutError after the idle timeout in which nothing finished."""
        with self._lock:
            while pending.missing:
                if self.broken is not None:
                    raise self.broken
                self._send()
                self._receive()

    def _receive(self) -> None:
        start = time.monotonic()
        try:
            status, answer, pieces, began = self._done.get(timeout=self.settings.idle_timeout)
        except queue.Empty:
            raise self._fail(
                TimeoutError(f"read: {self.server} sent nothing whole for {self.settings.idle_timeout:g} s")
            ) from None
        self._flying -= 1
        if not status.ok:
            raise self._fail(failure(status, "read"))
        now, size = time.monotonic(), 0
        for (pending, at, length), part in zip(pieces, answer.chunks, strict=True):
            if len(part.buffer) != length:
                raise self._fail(OSError(f"read: {len(part.buffer)} of {length} bytes at {at}"))
            pending.parts[at] = part.buffer
            pending.missing -= length
            size += length
        self.received += size
        if now - began < self.settings.idle_timeout / 10 and size == self._request:
            self._request = min(2 * self._request, LARGEST)
        self._watch_rate(now - start, size)

    def _watch_rate(self, seconds: float, size: int) -> None:
        """Only time spent waiting counts, so a busy reader is not taken for a slow server."""
        self._period_seconds += seconds
        self._period_bytes += size
        if self._period_seconds < self.settings.rate_period:
            return
        rate = self._period_bytes / self._period_seconds
        self._period_seconds, self._period_bytes = 0.0, 0
        if rate < self.settings.minimum_rate:
            raise self._fail(
                TimeoutError(
                    f"read: {self.server} gave {rate:.0f} bytes/s over {self.settings.rate_period:g} s, "
                    f"less than {self.settings.minimum_rate:g}"
                )
            )

    def close(self) -> None:
        """Let the handle go without waiting for the server's goodbye."""
        self._todo.clear()
        if self.broken is None:
            self._file.close(timeout=1, callback=lambda *_: None)
            self.broken = OSError(f"{self.url} is closed")


class XRootDSource(Source):
    """uproot's source of bytes over a `Wire`: give it to ``uproot.open`` as ``handler``, with ``settings``.

    Ranges are asked for at once and waited for one by one, so that decompression and network overlap without a thread of ours.
    """

    def __init__(self, file_path: str, settings: RemoteSettings, **_options: Any) -> None:
        super().__init__()
        self._file_path = file_path
        self.settings = settings
        self.wire = Wire(file_path, settings)
        self._num_bytes = self.wire.size

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self._file_path, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        XRootDSource.__init__(self, state["path"], state["settings"])

    def __enter__(self) -> XRootDSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    @property
    def closed(self) -> bool:
        """Whether the file was closed or given up."""
        return self.wire.broken is not None

    def chunk(self, start: int, stop: int) -> Chunk:
        """One byte range; it may end beyond the file, as uproot's first look at a header does."""
        chunk = self.chunks([(start, stop)])[0]
        chunk.wait(insist=False)
        return chunk

    def chunks(
        self, ranges: Sequence[tuple[int, int]], notifications: queue.Queue[Chunk] | None = None
    ) -> list[Chunk]:
        """Byte ranges, asked for together; each is handed over at once and waited for by whoever looks into it."""
        if self.wire.broken is not None:
            raise self.wire.broken
        self._num_requests += 1
        self._num_requested_chunks += len(ranges)
        self._num_requested_bytes += sum(stop - start for start, stop in ranges)
        pending = self.wire.ask(ranges)
        found = [Chunk(self, a, b, p) for (a, b), p in zip(ranges, pending, strict=True)]
        for chunk in found if notifications is not None else ():
            notifications.put(chunk)  # type: ignore[union-attr]
        return found
