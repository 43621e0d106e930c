"""Reading the branches of one collection with its offsets made once: uproot makes them for every branch.

Where a range begins and ends with baskets, the second and every further branch of a collection needs nothing but its numbers.
"""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray


@dataclass(frozen=True)
class _Basket:
    """The numbers of a basket, and how many events they belong to, which uproot checks."""

    content: NDArray[Any]
    entries: int

    def __len__(self) -> int:
        return self.entries


class Contents(uproot.AsDtype):
    """An interpretation of a jagged branch as its flat content; entry ranges must begin and end with baskets."""

    def basket_array(
        self, data: Any, byte_offsets: Any, basket: Any, branch: Any, context: Any, cursor_offset: Any, library: Any,
        options: Any,
    ) -> Any:  # fmt: skip
        """The numbers as they are stored."""
        return _Basket(data.view(self.from_dtype), basket.num_entries)

    def final_array(
        self, basket_arrays: Any, entry_start: int, entry_stop: int, entry_offsets: Any, library: Any, branch: Any,
        options: Any,
    ) -> Any:  # fmt: skip
        """All baskets one after the other, in the machine's byte order."""
        parts = [basket_arrays[i].content for i in sorted(basket_arrays)]
        out = np.empty(sum(map(len, parts)), self.to_dtype)
        at = 0
        for part in parts:
            out[at : at + len(part)] = part
            at += len(part)
        return out


def _plain_dtype(branch: Any) -> np.dtype[Any] | None:
    """The stored type of a jagged branch of plain numbers without headers; None for any other."""
    kind = branch.interpretation
    if type(kind) is not uproot.AsJagged or kind.header_bytes or type(kind.content) is not uproot.AsDtype:
        return None
    dtype = kind.content.from_dtype
    return dtype if dtype.fields is None and dtype.shape == () else None


def read_aligned(tree: Any, names: Sequence[str], start: int, stop: int) -> dict[str, Any]:
    """Branches of a TTree on this machine as awkward arrays by name, those of a collection sharing one array of offsets."""
    counted: dict[Any, list[str]] = {}
    for name in names:
        counter, edges = tree[name].count_branch, tree[name].entry_offsets
        aligned = start in edges and stop in edges and start < stop
        if counter is not None and aligned and _plain_dtype(tree[name]) is not None:
            counted.setdefault(counter.name, []).append(name)
    later = {n for group in counted.values() for n in group[1:]}
    first = [n for n in names if n not in later]
    out = tree.arrays(first, entry_start=start, entry_stop=stop, library="ak", how=dict)
    for head, *rest in counted.values():
        offsets = out[head].layout.offsets
        for name in rest:
            kind = Contents(_plain_dtype(tree[name]))
            flat = tree[name].array(kind, entry_start=start, entry_stop=stop, library="np")
            if len(flat) != offsets[-1]:
                raise ValueError(f"{name} holds {len(flat)} numbers, {head} {offsets[-1]}")
            out[name] = ak.Array(ak.contents.ListOffsetArray(offsets, ak.contents.NumpyArray(flat)))
    return {name: out[name] for name in names}
