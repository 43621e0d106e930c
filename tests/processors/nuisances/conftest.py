"""Small jagged columns, identities and correction files of schema 2, made by correctionlib's own classes."""

import gzip
from pathlib import Path
from uuid import UUID

import awkward as ak
import correctionlib.schemav2 as cs
import numpy as np
import pytest
from elsewhere.events import make_identity

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
FILE = UUID(int=7)


def jagged(counts, values) -> ak.Array:
    return ak.unflatten(values, counts)


def identities(n: int, first: int = 0) -> np.ndarray:
    return make_identity(np.ones(n), np.full(n, 3), np.arange(first, first + n), FILE)


def jet_columns(n: int = 400, seed: int = 1, jets: str = "Jet", met: str = "PuppiMET", most: int = 8) -> dict:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, n)
    total = int(counts.sum())
    made = {
        "pt": rng.exponential(60, total) + 10, "eta": rng.uniform(-2.4, 2.4, total), "phi": rng.uniform(-np.pi, np.pi, total),
        "mass": rng.exponential(12, total), "msoftdrop": rng.exponential(9, total),
        **{f"tau{i}": rng.uniform(0, 1, total) for i in (1, 2, 3)},
    }  # fmt: skip
    out = {f"{jets}_{k}": jagged(counts, v.astype(np.float32)) for k, v in made.items()}
    out[f"{met}_pt"] = rng.exponential(40, n).astype(np.float32)
    out[f"{met}_phi"] = rng.uniform(-np.pi, np.pi, n).astype(np.float32)
    out["rho"] = rng.uniform(5, 40, n).astype(np.float32)
    return out


def flat(array) -> np.ndarray:
    return ak.to_numpy(ak.flatten(array))


def variable(name: str, kind: str = "real") -> cs.Variable:
    return cs.Variable(name=name, type=kind)


def binning(edges, content, of: str, flow="error") -> cs.Binning:
    return cs.Binning(nodetype="binning", input=of, edges=list(edges), content=list(content), flow=flow)


def category(of: str, content: dict) -> cs.Category:
    items = [cs.CategoryItem(key=k, value=v) for k, v in content.items()]
    return cs.Category(nodetype="category", input=of, content=items)


def formula(text: str, of: list[str]) -> cs.Formula:
    return cs.Formula(nodetype="formula", expression=text, parser="TFormula", variables=of)


def write(path: Path, *corrections: cs.Correction) -> Path:
    text = cs.CorrectionSet(schema_version=2, corrections=list(corrections)).model_dump_json(
        exclude_unset=True
    )
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def correction(name: str, inputs: list, data) -> cs.Correction:
    return cs.Correction(name=name, version=1, inputs=inputs, output=variable("weight"), data=data)


def jet_corrections() -> list[cs.Correction]:
    """An energy scale in eta and pT, a resolution in pT and rho, and a scale factor with its systematic strings."""
    scale = binning(
        [-5, 0, 5], [formula("0.01+0.3/x", ["JetPt"]), formula("0.02+0.1/x", ["JetPt"])], "JetEta"
    )
    resolution = formula("sqrt(0.05*0.05+1.2*1.2/x)+0.0001*y", ["JetPt", "Rho"])
    factor = {
        k: binning([-5, 1, 5], [1.1 + d, 1.2 + 2 * d], "JetEta")
        for k, d in (("nom", 0.0), ("up", 0.04), ("down", -0.03))
    }
    return [
        correction("Total", [variable("JetEta"), variable("JetPt")], scale),
        correction("PtResolution", [variable("JetEta"), variable("JetPt"), variable("Rho")], resolution),
        correction("ScaleFactor", [variable("JetEta"), variable("systematic", "string")], category("systematic", factor)),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def jec(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("jec") / "jet_jerc.json.gz", *jet_corrections())


@pytest.fixture
def columns() -> dict:
    return jet_columns()


def real_columns(name: str, branches) -> dict:
    """Branches of one of the real files, those of them that it has."""
    import uproot

    path = DATA / f"{name}.root"
    if not path.exists():
        pytest.skip(f"{path} is not there: the real files are not part of the package")
    tree = uproot.open(path)["Events"]
    have = [b for b in branches if b in tree.keys(recursive=False)]
    raw = tree.arrays(have, library="ak", how=dict)
    return {k: np.asarray(ak.to_numpy(v)) if v.ndim == 1 else v for k, v in raw.items()}
