"""Reading an https:// file so that every wait ends: uproot's own source, each request given the time its bytes need."""

# uproot's and fsspec's own annotations are unions of everything a file may hold.
# pyright: reportIncompatibleMethodOverride=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import asyncio
import queue
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any

from uproot.source.chunk import Chunk
from uproot.source.fsspec import FSSpecLoopExecutor, FSSpecSource
from uproot.source.futures import TrivialFuture

from .places import RemoteSettings


class _Patient(FSSpecLoopExecutor):
    """Runs requests on fsspec's loop, none longer than `seconds`."""

    seconds: float = 0.0

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return super().submit(self._bounded(coroutine, self.seconds))

    @staticmethod
    async def _bounded(coroutine: Coroutine[Any, Any, Any], seconds: float) -> Any:
        try:
            return await asyncio.wait_for(coroutine, seconds)
        except TimeoutError as error:  # of aiohttp or of this limit; neither says anything
            raise TimeoutError(
                str(error) or f"read: not there in {seconds:g} s, or silent too long"
            ) from error


class WebSource(FSSpecSource):
    """Give it to ``uproot.open`` as ``handler``, with ``settings``. A silent server is cut after the idle timeout; a dripping one
    when its bytes have taken longer than the minimum rate allows (and never before ``rate_period``)."""

    def __init__(self, file_path: str, settings: RemoteSettings, **options: Any) -> None:
        import aiohttp

        self.settings = settings
        limit = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_timeout, sock_read=settings.idle_timeout
        )
        super().__init__(file_path, **options, client_kwargs={"timeout": limit})

    def _open(self) -> None:
        super()._open()
        self._executor = _Patient()

    def _allow(self, size: int) -> None:
        least = size / self.settings.minimum_rate if self.settings.minimum_rate else float("inf")
        slack = self.settings.connect_timeout + self.settings.idle_timeout
        self._executor.seconds = slack + max(self.settings.rate_period, least)

    def chunk(self, start: int, stop: int) -> Chunk:
        """One byte range; raises TimeoutError when the server is too slow."""
        self._num_requests += 1
        self._num_requested_chunks += 1
        self._num_requested_bytes += stop - start
        self._allow(stop - start)
        data = self._executor.submit(self._fs._cat_file(self._file_path, start=start, end=stop)).result()
        return Chunk(self, start, stop, TrivialFuture(data))

    def chunks(self, ranges: Sequence[tuple[int, int]], notifications: queue.Queue[Chunk]) -> list[Chunk]:
        """Byte ranges, asked for together: all of them are allowed the time that all their bytes need."""
        self._allow(sum(stop - start for start, stop in ranges))
        return super().chunks(list(ranges), notifications)
