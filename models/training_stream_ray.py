"""Ray Data as the reader of a training sample: tasks read, check and scale blocks, and the object store holds what comes next.

Ray Data's own splits and shuffles depend on timing, so the order is ours (`training_stream`) and Ray Data
is asked for the blocks in it. Every worker asks for all of them, as its shards are parts of every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .training_stream import Block, ParquetSample, Rows, read_rows

#: Blocks that are read at once, for one worker.
_AT_ONCE = 2


def by_ray_data(sample: ParquetSample, blocks: Sequence[Block]) -> Iterator[Rows]:
    """A `Reader` inside a Ray session."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False

    def read(batch: Any) -> Any:
        return dict(read_rows(sample, blocks[int(batch["item"][0])]))

    # Tasks of no CPU: the workers of the training hold all that a cluster may have, and would wait for their readers for ever.
    asked = ray.data.from_items(list(range(len(blocks))), override_num_blocks=len(blocks))
    found = asked.map_batches(read, batch_size=1, num_cpus=0, compute=ray.data.TaskPoolStrategy(_AT_ONCE))
    batches: Any = found.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1)
    for rows in batches:
        yield {str(name): np.asarray(values, np.float32) for name, values in rows.items()}
