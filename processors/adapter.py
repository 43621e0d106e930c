"""The same work as a coffea processor, for analyses that already have a coffea runner of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from coffea.processor import ProcessorABC

from ..errors import ConfigError, InputError
from ..workspace import write_chunk
from .core import IDENTITY_BRANCHES, Recipe, Unit, finish_unit
from .driver import unit_path
from .features import Columns, Features
from .report import check_tiling, merge_histograms


def nano_columns(events: Any, recipe: Recipe, dataset: str) -> Columns:
    """The branches a recipe needs from coffea's NanoEvents, named as in the file: FatJet_pt from FatJet.pt.

    Raises `InputError` naming a branch that is not there.
    """
    fields = set(events.fields)

    def find(branch: str) -> Any:
        if branch in fields:
            return events[branch]
        collection, _, name = branch.partition("_")
        if collection in fields and name in events[collection].fields:
            return events[collection][name]  # by key: NanoEvents' attributes may be properties of the vector
        return None

    out, required = {}, {*IDENTITY_BRANCHES, *recipe.branches(dataset)}
    for branch in (*required, *recipe.optional(dataset)):
        values = find(branch)
        if values is not None:
            out[branch] = np.asarray(ak.to_numpy(values)) if values.ndim == 1 else ak.Array(values)
        elif branch in required:
            where = events.metadata.get("filename", "the events")
            raise InputError(
                f"{where} has no branch {branch}, which feature set '{recipe.features.features.name}' or a nuisance needs"
            )
    return out


class FeatureProcessor(ProcessorABC):
    """Features, scores and histograms of coffea's NanoEvents (`NanoAODSchema`), accumulated by coffea.

    ``process`` returns ``{"histograms": {dataset: Hist}, "ledger": [row, ...]}``; with ``out`` every chunk is also
    written to ``out``/columns/DATASET as Parquet, the same file that `process` of `stream` writes. ``postprocess``
    raises `IncompleteError` where ranges of a file overlap or leave a gap; that a file's last events are there only a
    run of `stream.process` can prove, because coffea does not tell a processor how many entries a file has.
    """

    def __init__(
        self,
        features: Features,
        scorers: Mapping[str, Any] | None = None,
        thresholds: Mapping[str, Sequence[float]] | None = None,
        *,
        filters: Mapping[str, tuple[Any, ...]] | None = None,
        nuisances: Mapping[str, tuple[Any, ...]] | None = None,
        out: Path | None = None,
        scales: Mapping[str, float] | None = None,
    ) -> None:
        self.recipe = Recipe(
            features, scorers or {}, thresholds or {}, filters=filters or {}, nuisances=nuisances or {}
        )
        self.out = out
        self.scales = dict(scales or {})

    def process(self, events: Any) -> dict[str, Any]:
        """One chunk of NanoEvents."""
        meta = events.metadata
        try:
            name = meta["dataset"]
            unit = Unit(
                name, meta["filename"], str(meta["fileuuid"]), int(meta["entrystart"]), int(meta["entrystop"]),
                self.scales.get(name, 1.0),
            )  # fmt: skip
        except KeyError as error:
            raise ConfigError(
                f"the events' metadata has no {error}; run this processor by coffea's Runner"
            ) from None
        chunk = finish_unit(nano_columns(events, self.recipe, name), self.recipe, unit)
        if self.out is not None:
            write_chunk(unit_path(self.out, "columns", unit), chunk)
        parts: list[Any] = [(name, chunk.variations, chunk.histograms)]
        made = merge_histograms(self.recipe.features.features, self.recipe.cuts, parts)
        return {"histograms": {name: made}, "ledger": [chunk.ledger]}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """Prove that no entry of a file was counted twice or passed over."""
        last: dict[str, int] = {}
        for row in accumulator["ledger"]:
            last[row["uuid"]] = max(last.get(row["uuid"], 0), row["stop"])
        check_tiling(accumulator["ledger"], last)
        return accumulator
