"""Ray Data as the reader of a training sample: tasks read, check and scale blocks, and the object store holds what comes next.

Ray Data's own splits and shuffles depend on timing, so the order is ours (`training_stream`) and Ray Data is asked for the blocks in
it, some at a time. An execution costs the process that runs it about a tenth of a second of CPU, and one that waits for its consumer
costs a fifth of a core as long as it waits. So executions run in an actor beside the worker, each for as many blocks as the object
store may hold, of several epochs if they are short; they run to their end, and the next is asked for when the blocks of the one
before begin to be used. The worker takes NumPy arrays from the object store without a copy. Every worker asks for all blocks, as its
shards are parts of every batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from .training_stream import Block, ParquetSample, Rows, read_rows

#: Tasks that read at once, for one worker; bytes of an execution, and of one task of it. The object store holds two executions.
_AT_ONCE, PART_BYTES, _TASK_BYTES = 2, 96_000_000, 24_000_000
#: The column of a table that has no rows but says why.
_REFUSED = "refused"


def parts(sample: ParquetSample, blocks: Iterable[Block], most: int) -> Iterator[list[Block]]:
    """The blocks in their order, as many together as have ``most`` bytes at most, but at least one."""
    size = row_bytes(sample)
    held: list[Block] = []
    rows = 0
    for block in blocks:
        if held and (rows + block.rows) * size > most:
            yield held
            held, rows = [], 0
        held.append(block)
        rows += block.rows
    if held:
        yield held


def row_bytes(sample: ParquetSample) -> int:
    """Bytes of x, y and weight of an event."""
    return 4 * (len(sample.columns) + len(sample.target) + 1)


def read_together(sample: ParquetSample, blocks: Sequence[Block]) -> Rows:
    """The rows of some blocks, one after another."""
    found = [read_rows(sample, block) for block in blocks]
    return found[0] if len(found) == 1 else {k: np.concatenate([f[k] for f in found]) for k in found[0]}


class _Feed:
    """What the actor does: run Ray Data."""

    def read(self, sample: ParquetSample, part: Sequence[Block]) -> list[Any]:
        """References to the rows of the blocks, as Arrow tables in the order of the blocks."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        items = list(parts(sample, part, _TASK_BYTES))

        def read(batch: Any) -> Any:
            try:
                return dict(read_together(sample, items[int(batch["item"][0])]))
            except InputError as error:  # an error that Ray Data has wrapped is a text of many lines
                return {_REFUSED: np.array([str(error)])}

        # Tasks of no CPU: the workers of the training hold all that a cluster may have, and would wait for their readers for ever.
        asked = ray.data.from_items(list(range(len(items))), override_num_blocks=len(items))
        found = asked.map_batches(
            read, batch_size=1, num_cpus=0, compute=ray.data.TaskPoolStrategy(size=_AT_ONCE)
        )
        return found.to_arrow_refs()


class RayData:
    """A `Reader` inside a Ray session; its actor starts with the first sample and ends with `close`."""

    def __init__(self) -> None:
        self._feed: Any = None

    def __call__(self, sample: ParquetSample, blocks: Iterable[Block]) -> Iterator[Rows]:
        """The rows of the blocks; raises `InputError` where they cannot be read."""
        import ray
        from ray.data.block import BlockAccessor

        if self._feed is None:
            self._feed = ray.remote(num_cpus=0)(_Feed).remote()
        light = copy.copy(sample)
        light.__dict__.pop("blocks", None)  # all row groups of all files, of no use to who reads a few
        ask = partial(self._feed.read.remote, light)
        following = parts(sample, blocks, PART_BYTES)
        asked = [ask(part) for part in [next(following, None)] if part]
        while asked:
            found: Any = ray.get(asked.pop())
            asked += [ask(part) for part in [next(following, None)] if part]
            found.reverse()
            while found:
                table = ray.get(found.pop())  # nobody else holds it, so that the object store forgets it
                rows: Any = BlockAccessor.for_block(table).to_numpy()
                if _REFUSED in rows:
                    raise InputError(str(rows[_REFUSED][0]))
                yield {str(name): np.asarray(values, np.float32) for name, values in rows.items()}

    def close(self) -> None:
        """End the actor, whatever it is doing."""
        import ray

        if self._feed is not None:
            ray.kill(self._feed)
            self._feed = None
