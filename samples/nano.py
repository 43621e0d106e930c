"""NanoAOD-shaped ROOT files: names, types and trees of NanoAOD, so that nothing downstream knows who made them."""

# uproot's and awkward's own annotations are unions of everything a file or an array may hold.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from numpy.typing import NDArray

from ..workspace import atomic

#: Mantissa bits kept per float branch (NanoAOD keeps about 10 to 12), and of collections that are only looked at; candidates
#: keep more, so that their angle to the jet's axis does.
MANTISSA_BITS = 10
OTHER_BITS = {"Jet": 8, "GenPart": 8, "PFCands": 12}


def truncate(values: NDArray[Any], bits: int = MANTISSA_BITS) -> NDArray[np.float32]:
    """Round float32 values to ``bits`` mantissa bits (relative precision 2^-(bits+1)), so that they compress."""
    if not 1 <= bits < 23:
        raise ValueError(f"bits {bits}: expected 1 to 22")
    raw = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    drop = np.uint64(23 - bits)
    half = np.uint64(1) << (drop - np.uint64(1))
    kept = ((raw + half) >> drop) << drop
    return kept.astype(np.uint32).view(np.float32)


def collection(counts: NDArray[Any], **columns: NDArray[Any]) -> ak.Array:
    """A jagged collection from flat columns."""
    parts = {
        name: ak.unflatten(v.astype(np.float32) if v.dtype.kind == "f" else v, counts)
        for name, v in columns.items()
    }
    return ak.zip(parts)


def _truncated(name: str, values: Any) -> Any:
    """A collection with its float fields rounded to the bits of its name; flat branches as they are."""
    if not isinstance(values, ak.Array):
        return values
    bits = OTHER_BITS.get(name, MANTISSA_BITS)
    if not values.fields:
        return ak.unflatten(truncate(ak.to_numpy(ak.flatten(values)), bits), ak.num(values))
    counts = ak.num(values[values.fields[0]])

    def rounded(field: str) -> ak.Array:
        flat = ak.to_numpy(ak.flatten(values[field]))
        return ak.unflatten(truncate(flat, bits) if flat.dtype.kind == "f" else flat, counts)

    return ak.zip({field: rounded(field) for field in values.fields})


#: Collections of NanoAOD that these samples have none of: empty, so that every cross-reference of the schema resolves.
#: "p4" stands for pt, eta, phi, mass; "Idx" columns are int16, "charge" int32.
EMPTY: dict[str, tuple[str, ...]] = {
    "Electron": ("p4", "charge", "genPartIdx", "jetIdx", "photonIdx"),
    "FsrPhoton": ("pt", "eta", "phi", "muonIdx"),
    "GenJet": ("p4",),
    "GenJetAK8": ("p4",),
    "GenPart": ("p4", "pdgId", "status", "statusFlags", "genPartIdxMother"),
    "GenVisTau": ("p4", "charge", "genPartIdxMother"),
    "FatJet": ("p4", "genJetAK8Idx", "subJetIdx1", "subJetIdx2"),
    "Jet": ("p4", "electronIdx1", "electronIdx2", "genJetIdx", "muonIdx1", "muonIdx2"),
    "LowPtElectron": ("p4", "charge", "electronIdx", "genPartIdx", "photonIdx"),
    "Muon": ("p4", "charge", "fsrPhotonIdx", "genPartIdx", "jetIdx"),
    "Photon": ("pt", "eta", "phi", "electronIdx", "genPartIdx", "jetIdx"),
    "SubJet": ("p4",),
    "Tau": ("p4", "charge", "genPartIdx", "jetIdx"),
}
#: The same for files with constituents, which are PFNano.
EMPTY_PF: dict[str, tuple[str, ...]] = {
    "FatJet": ("electronIdx3SJ", "muonIdx3SJ"),
    "FatJetSVs": ("jetIdx", "sVIdx"),
    "GenCands": ("p4", "charge", "pdgId"),
    "GenFatJetCands": ("jetIdx", "pFCandsIdx"),
    "GenFatJetSVs": ("jetIdx", "sVIdx"),
    "GenJetCands": ("jetIdx", "pFCandsIdx"),
    "GenJetSVs": ("jetIdx", "sVIdx"),
    "JetPFCands": ("jetIdx", "pFCandsIdx"),
    "JetSVs": ("jetIdx", "sVIdx"),
    "SubGenJetAK8": ("p4",),
    "SubJet": ("subGenJetAK8Idx",),
    "SV": ("p4",),
}


def _dtype(name: str) -> np.dtype[Any]:
    if "Idx" in name:
        return np.dtype(np.int16)
    return np.dtype(
        {"charge": np.int32, "pdgId": np.int32, "status": np.int32, "statusFlags": np.uint16}.get(
            name, np.float32
        )
    )


def complete(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Add the collections and index columns that NanoAODSchema looks for; an index that points nowhere is -1."""
    n = len(columns["run"])
    out = dict(columns)
    more = EMPTY_PF if "PFCands" in columns else {}
    for name in dict.fromkeys([*EMPTY, *more]):
        asked = EMPTY.get(name, ()) + more.get(name, ())
        fields = [f for a in asked for f in (("pt", "eta", "phi", "mass") if a == "p4" else (a,))]
        if name not in out:
            none = {f: np.zeros(0, _dtype(f)) for f in fields}
            out[name] = ak.zip({f: ak.unflatten(v, np.zeros(n, np.int64)) for f, v in none.items()})
        else:
            counts = ak.num(out[name][out[name].fields[0]])
            total = int(ak.sum(counts))
            missing = {
                f: np.full(total, -1, np.int16) for f in fields if "Idx" in f and f not in out[name].fields
            }
            have = {f: out[name][f] for f in out[name].fields}
            out[name] = ak.zip({**have, **{f: ak.unflatten(v, counts) for f, v in missing.items()}})
    return out


def _runs(columns: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    weight = np.asarray(columns["genWeight"], dtype=np.float64)
    run, where = np.unique(np.asarray(columns["run"]), return_inverse=True)
    return {
        "run": run.astype(np.uint32),
        "genEventCount": np.bincount(where, minlength=len(run)).astype(np.int64),
        "genEventSumw": np.bincount(where, weight, minlength=len(run)),
        "genEventSumw2": np.bincount(where, weight**2, minlength=len(run)),
    }


def write_nano(path: Path, columns: Mapping[str, Any], basket: int = 50_000, level: int = 22) -> None:
    """Write Events, Runs and LuminosityBlocks in one rename.

    ``columns``: run, luminosityBlock, event, genWeight (n,), any flat branch, lists of floats, which become nNAME and NAME,
    and collections (awkward records), which become nNAME and NAME_field. zstd at its highest ``level`` (the offsets of jagged branches then cost a quarter),
    ``basket`` events per basket.
    """
    columns = {k: _truncated(k, v) for k, v in complete(columns).items()}
    both = np.stack([np.asarray(columns["run"]), np.asarray(columns["luminosityBlock"])], axis=1)
    lumis = np.unique(both, axis=0).astype(np.uint32)
    n = len(both)
    with atomic(path) as temporary, uproot.recreate(temporary, compression=uproot.ZSTD(level)) as file:
        first = {name: values[:basket] for name, values in columns.items()}
        file.mktree("Events", {k: _branch_type(v) for k, v in first.items()}, counter_name=lambda c: f"n{c}")
        for start in range(0, n, basket):
            file["Events"].extend({k: v[start : start + basket] for k, v in columns.items()})
        file.mktree("Runs", {k: v.dtype for k, v in _runs(columns).items()})
        file["Runs"].extend(_runs(columns))
        blocks = {"run": lumis[:, 0], "luminosityBlock": lumis[:, 1]}
        file.mktree("LuminosityBlocks", {k: v.dtype for k, v in blocks.items()})
        file["LuminosityBlocks"].extend(blocks)


def _branch_type(values: Any) -> Any:
    return values.type.content if isinstance(values, ak.Array) else values.dtype
