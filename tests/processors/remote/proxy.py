"""A TCP proxy on loopback that can misbehave on request: what a wide-area link does to a reader, made at will."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal

Mode = Literal["pass", "stall", "drip", "slow", "close", "refuse", "reset", "freeze"]
#: How often a pump looks whether it was told to behave otherwise, in seconds.
TICK = 0.02
#: Modes in which no connection lives.
ENDED = frozenset({"close", "reset", "refuse"})
#: Bytes per second of a slow but healthy link.
SLOW = 200_000


class Proxy:
    """Forward 127.0.0.1:`port` to ``target``; `mode` says how, and may be changed at any time by any thread.

    stall: connections are taken and no byte passes; drip: one byte a second from the server; slow: `SLOW` bytes a second; close and
    reset: every connection is ended, and so is every new one; refuse: nobody listens; freeze: the connections there are never pass
    another byte, new ones do. ``turn(mode, after)`` changes the
    mode once so many more bytes came from the server: in the middle of a basket, that is.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.down = 0
        self.connections = 0
        self._mode: Mode = "pass"
        self._turn: tuple[int, Mode] | None = None
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._frozen: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._listen(0)
        self.port = self._listener.getsockname()[1]  # type: ignore[union-attr]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _listen(self, port: int) -> None:
        # A listener that was closed keeps its port until the thread that waits in it has come back.
        end_at = time.monotonic() + 10.0
        while True:
            try:
                self._listener = socket.create_server(("127.0.0.1", port))
                break
            except OSError:
                if time.monotonic() > end_at:
                    raise
                time.sleep(TICK)
        self._listener.settimeout(TICK)

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._lock:
            self._set(mode)

    def _set(self, mode: Mode) -> None:
        self._mode, self._turn = "pass" if mode == "freeze" else mode, None
        if mode == "freeze":
            self._frozen.update(self._open)
        if mode in ENDED:
            for each in self._open:
                end(each, hard=mode == "reset")
            self._open.clear()
        if mode == "refuse" and self._listener is not None:
            self._listener.close()
            self._listener = None
        elif mode != "refuse" and self._listener is None:
            self._listen(self.port)

    def turn(self, mode: Mode, after: int) -> None:
        """Change to ``mode`` after ``after`` more bytes from the server."""
        with self._lock:
            self._turn = (self.down + after, mode)

    def _accept(self) -> None:
        while not self._stop.is_set():
            listener = self._listener
            if listener is None:
                time.sleep(TICK)
                continue
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            self.connections += 1
            if self._mode in ENDED:  # a listener that was just closed may still give one
                end(client, hard=self._mode == "reset")
                continue
            self._join(client)

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            end(client)
            return
        with self._lock:
            if self._mode in ENDED:  # since it was accepted
                end(client)
                end(server)
                return
            self._open += [client, server]
        for each in (client, server):
            each.settimeout(TICK)
        for source, sink, down in ((client, server, False), (server, client, True)):
            thread = threading.Thread(target=self._pump, args=(source, sink, down), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _allowed(self, source: socket.socket, down: bool) -> int:
        """How many bytes the next step may pass."""
        if self._mode == "stall" or source in self._frozen:
            return 0
        if self._mode == "drip" and down:
            return 1
        if self._mode == "slow" and down:
            return int(SLOW * TICK)
        if self._turn is not None and down:
            return max(self._turn[0] - self.down, 1)
        return 1 << 16

    def _pump(self, source: socket.socket, sink: socket.socket, down: bool) -> None:
        while not self._stop.is_set():
            size = self._allowed(source, down)
            if size == 0:
                time.sleep(TICK)
                continue
            try:
                data = source.recv(min(size, 1 << 16))
                if self._mode == "stall":  # the mode was changed while this waited
                    while self._mode == "stall" and not self._stop.is_set():
                        time.sleep(TICK)
                if data:
                    sink.settimeout(None)
                    sink.sendall(data)
            except TimeoutError:
                continue
            except OSError:
                data = b""
            if not data:
                end(source)
                end(sink)
                return
            self._count(len(data), down)

    def _count(self, size: int, down: bool) -> None:
        if not down:
            return
        with self._lock:
            self.down += size
            if self._turn is not None and self.down >= self._turn[0]:
                self._set(self._turn[1])
        if self._mode in {"drip", "slow"}:
            self._stop.wait(1.0 if self._mode == "drip" else TICK)

    def close(self) -> None:
        """End every connection and thread."""
        self._stop.set()
        with self._lock:
            self._set("refuse")
        for thread in self._threads:
            thread.join(timeout=2)


def end(connection: socket.socket, hard: bool = False) -> None:
    """Close a connection; ``hard`` resets it (RST) instead of ending it politely (FIN)."""
    with contextlib.suppress(OSError):
        if hard:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        else:
            connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]
