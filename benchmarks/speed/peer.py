"""The same analysis as a competent coffea user writes it, and what it costs against `process`.

    python benchmarks/speed/peer.py [--quick]

NanoEvents with `NanoAODSchema`, `ak.pad_none` features, the same network in batches of the same size, the same histogram,
Parquet by pyarrow, coffea's Runner with its IterativeExecutor and chunks of 50,000. Both passes start after the files have
been checked, run in one process in turn, and must give the same events, features and scores. On files that hold hardly
more than what is read, and on files of 1,500 branches, which real NanoAOD has and which coffea pays for in every chunk.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from case import KINDS, THRESHOLDS, Case, case_of, cpu, file_of, finish
from coffea.nanoevents import NanoAODSchema
from coffea.processor import IterativeExecutor, ProcessorABC, Runner
from elsewhere.models.store import load
from elsewhere.processors.core import BATCH, mass_axis
from elsewhere.processors.reading import open_tree
from elsewhere.workspace import Workspace

CHUNK = 50_000
WIDTH = 1_500
IDENTITY = ("run", "luminosityBlock", "event")


class Schema(NanoAODSchema):
    """Quiet about the collections that a skim leaves out."""

    warn_missing_crossrefs = False


def padded(values: Any, most: int) -> np.ndarray:
    """The first ``most`` entries of every list, zeros where there are fewer, shape (n, most)."""
    return ak.to_numpy(ak.fill_none(ak.pad_none(values, most, clip=True), 0.0))


def level1(events: Any) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """The 57 numbers of the triggered crossing: events kept, x, and the columns beside it."""
    sums = events.L1EtSum[events.L1EtSum.bx == 0]
    met, ht = (ak.firsts(sums[sums.etSumType == kind]) for kind in (2, 1))
    missing = [ak.to_numpy(ak.fill_none(v, 0.0)) for v in (met.pt, met.phi)]
    blocks = [np.stack([missing[0], np.zeros(len(events)), missing[1]], axis=1)]
    for name, most in (("L1EG", 4), ("L1Mu", 4), ("L1Jet", 10)):
        found = events[name]
        found = found[found.bx == 0]
        found = found[ak.argsort(found.pt, ascending=False)]
        parts = [padded(found[v], most) for v in ("pt", "eta", "phi")]
        blocks.append(np.stack(parts, axis=2).reshape(len(events), -1))
    x = np.concatenate(blocks, axis=1).astype(np.float32)
    return events, x, {"HT": ak.to_numpy(ak.fill_none(ht.pt, 0.0))}


def dijet(events: Any) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """Substructure of the two leading large-radius jets: events kept, x, and the columns beside it."""
    jets = events.FatJet[ak.argsort(events.FatJet.pt, ascending=False)]
    two = ak.num(jets) >= 2
    events, jets = events[two], jets[two]
    a, b = jets[:, 0], jets[:, 1]
    keep = (a.pt > 1200) & (abs(a.eta) < 2.5) & (abs(b.eta) < 2.5)
    events, a, b = events[keep], a[keep], b[keep]
    pair = ak.concatenate([ak.singletons(a), ak.singletons(b)], axis=1)
    pair = pair[ak.argsort(pair.mass, axis=1)]
    light, heavy = pair[:, 0], pair[:, 1]
    # By key, because jet.tau2 is a Lorentz vector's proper time squared.
    tau21 = [j["tau2"] / (j["tau1"] + 1e-5) for j in (light, heavy)]
    tau32 = [j["tau3"] / (j["tau2"] + 1e-5) for j in (light, heavy)]
    x = [ak.to_numpy(v) for v in (light.mass, heavy.mass - light.mass, *tau21)]
    beside = {"m_jj": (a + b).mass, "pt_1": a.pt, "pt_2": b.pt, "eta_1": a.eta, "eta_2": b.eta}
    beside |= {"tau32_1": tau32[0], "tau32_2": tau32[1]}
    return events, np.stack(x, axis=1).astype(np.float32), {k: ak.to_numpy(v) for k, v in beside.items()}


FEATURES = {"l1": level1, "dijet": dijet}


@dataclass
class Network:
    """The trained network of the case as plain torch, and the inputs it wants."""

    kind: str
    inner: Any

    def __post_init__(self) -> None:
        self.module = self.inner.network() if self.kind == "l1" else self._classifier()

    def _classifier(self) -> Any:
        from elsewhere.models.networks.dense import build_dense, load_weights

        sizes = [len(self.inner.inner.mean_), *self.inner.inner.hidden, 1]
        dense = load_weights(build_dense({"sizes": sizes, "seed": 0}), self.inner.inner.members_[0])
        return torch.nn.Sequential(dense, torch.nn.Flatten(0), torch.nn.Sigmoid()).eval()

    def inputs(self, x: np.ndarray, beside: dict[str, Any]) -> np.ndarray:
        """Scaled features, float32."""
        if self.kind == "l1":
            scaled = (x - self.inner.offset_) * 2.0**-self.inner.shift_
            return np.clip(scaled, -self.inner.clip, self.inner.clip).astype(np.float32)
        x = x.copy()
        x[:, :2] /= beside["m_jj"][:, None]
        return ((x - self.inner.inner.mean_) / self.inner.inner.width_).astype(np.float32)

    def score(self, x: np.ndarray, beside: dict[str, Any]) -> np.ndarray:
        """Scores (n,), a batch at a time."""
        with torch.inference_mode():
            batches = torch.from_numpy(self.inputs(x, beside)).split(BATCH)
            return torch.cat([self.module(batch) for batch in batches]).numpy().astype(np.float64)


class UsualProcessor(ProcessorABC):
    """One chunk of NanoEvents to a histogram and a Parquet file."""

    def __init__(self, case: Case, network: Network, out: Path) -> None:
        self.case, self.network, self.out = case, network, out

    def process(self, events: Any) -> dict[str, Any]:
        """Features, scores, histogram, columns."""
        meta = events.metadata
        kept, x, beside = FEATURES[self.case.kind](events)
        score = self.network.score(x, beside)
        weight = np.ones(len(x))
        filled = self._histogram(meta["dataset"], beside.get("m_jj", np.full(len(x), 0.5)), score, weight)
        columns = {name: ak.to_numpy(kept[name]) for name in IDENTITY} | {"weight": weight}
        columns |= {c.name: x[:, i] for i, c in enumerate(self.case.features.features.columns)}
        columns |= beside | {"score_net": score}
        name = f"{meta['fileuuid']}_{meta['entrystart']}_{meta['entrystop']}.parquet"
        pq.write_table(pa.table(columns), self.out / name, compression="zstd")
        return {"events": len(events), "histogram": filled}

    def _histogram(self, dataset: str, mass: np.ndarray, score: np.ndarray, weight: np.ndarray) -> hist.Hist:
        made = hist.Hist(
            hist.axis.StrCategory([], growth=True, name="dataset"),
            hist.axis.StrCategory([], growth=True, name="cut"),
            mass_axis(self.case.features.features),
            storage=hist.storage.Weight(),
        )
        made.fill(dataset=dataset, cut="all", mass=mass, weight=weight)
        for limit in THRESHOLDS["net"]:
            passing = score > limit
            made.fill(dataset=dataset, cut=f"net>{limit:g}", mass=mass[passing], weight=weight[passing])
        return made

    def postprocess(self, accumulator: Any) -> Any:
        """Nothing to do."""
        return accumulator


def usual(case: Case, network: Network, out: Path) -> tuple[float, hist.Hist]:
    """CPU seconds of coffea's pass, its preprocessing left out as our preflight is, and the histogram."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    executor = IterativeExecutor(status=False)
    runner = Runner(executor, pre_executor=executor, schema=Schema, chunksize=CHUNK)
    files = {name: {"files": [r.path for r in rs]} for name, rs in case.records.items()}
    chunks = list(runner.preprocess(files, treename="Events"))
    made: list[Any] = []
    spent = cpu(lambda: made.append(runner(chunks, UsualProcessor(case, network, out), treename="Events")))
    if made[0]["events"] != case.events:
        raise RuntimeError(f"coffea read {made[0]['events']} events, the files have {case.events}")
    return spent, made[0]["histogram"]


def agree(case: Case, report: Any, out: Path, filled: hist.Hist) -> float:
    """Raise unless both passes kept the same events with the same features, scores and counts; largest score difference.

    Scores may differ by the rounding of float32 invariant masses, and counts by the events such a rounding moves.
    """
    ours = Workspace(case.folder / "run").read_table("big")
    paths = sorted(out.glob("*.parquet"), key=lambda p: int(p.stem.split("_")[1]))
    theirs = pa.concat_tables([pq.read_table(p) for p in paths])
    by_event = np.argsort(theirs["event"].to_numpy(), kind="stable")
    mine = np.argsort(ours.events.identity["event"], kind="stable")
    np.testing.assert_array_equal(
        theirs["event"].to_numpy()[by_event], ours.events.identity["event"][mine], "different events kept"
    )
    for i, column in enumerate(case.features.features.columns):
        x = theirs[column.name].to_numpy()[by_event]
        np.testing.assert_allclose(x, ours.events.x[mine, i], rtol=1e-4, atol=1e-4, err_msg=column.name)
    score = theirs["score_net"].to_numpy()[by_event]
    np.testing.assert_allclose(score, ours.scores["net"][mine], rtol=1e-3, atol=1e-4, err_msg="score")
    for cut in filled.axes["cut"]:
        counts = [h[{"cut": cut, "dataset": "big"}] for h in (filled, report.histogram)]
        if "variation" in counts[1].axes.name:
            counts[1] = counts[1][{"variation": "nominal"}]
        moved = np.abs(counts[0].values(flow=True) - counts[1].values(flow=True)).sum()
        if moved > 1e-4 * len(ours):
            raise RuntimeError(f"the histograms of cut {cut} differ in {moved:g} events")
    return float(np.abs(score - ours.scores["net"][mine]).max())


def compare(kind: str, path: Path, repeats: int) -> dict[str, float]:
    """CPU of both, the best of ``repeats`` in turn, after one pass each to warm up and compare."""
    case = case_of(kind, [path], "peer")
    guarded, _ = load(Path(case.scorer.folder))
    network = Network(kind, guarded.inner)
    out = case.folder / "usual"
    report = case.run()
    difference = agree(case, report, out, usual(case, network, out)[1])
    theirs, ours = [], []
    for _ in range(repeats):
        theirs.append(usual(case, network, out)[0])
        open_tree.cache_clear()  # coffea opens the file too
        ours.append(cpu(case.run))
    shutil.rmtree(case.folder)
    return {
        "usual_cpu_s": min(theirs),
        "process_cpu_s": min(ours),
        "speedup": min(theirs) / min(ours),
        "score_difference": difference,
    }


def main(quick: bool) -> dict[str, float]:
    """Both kinds, narrow and wide; the headline is the worse kind on the narrow files, where coffea is at its best."""
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    for kind in KINDS:
        narrow = compare(kind, file_of(kind, 100_000 if quick else 500_000), 1 if quick else 3)
        wide = compare(kind, file_of(kind, 50_000 if quick else 200_000, width=WIDTH), 1 if quick else 3)
        figures |= {f"{kind}_{k}": v for k, v in narrow.items()}
        figures |= {f"{kind}_{k}_wide": v for k, v in wide.items()}
    figures["speedup_over_usual_coffea"] = min(figures[f"{kind}_speedup"] for kind in KINDS)
    figures["speedup_over_usual_coffea_wide"] = min(figures[f"{kind}_speedup_wide"] for kind in KINDS)
    return figures


if __name__ == "__main__":
    finish(main("--quick" in sys.argv))
