"""Whether a tagger that starts from RS3L depends less on the shower than the same network from its first weights (2403.07066).

    [ELSEWHERE_SET=small] python benchmarks/outliers/resim.py [SEEDS]

Events of the set `resim`: QCD jets and hadronic tops, each hard process showered four times: nominal, with another seed, with
the scale of final-state radiation halved (fsr_low) and doubled (fsr_high). A hash of the hard process puts half of them aside,
in all versions, and a fifth of the rest to choose the epoch of least loss. `Rs3l` learns from the versions of the others, without labels.
Four taggers learn the labels of nominal jets of the same hard processes:

    scratch    a ParticleNet from its first weights
    tuned      the same network, its encoder's first weights those of RS3L
    probe      a linear classifier of RS3L's latent vectors, which stay as they are
    augmented  as scratch, from as many jets, each in a version drawn at random: what the versions are worth without RS3L

Each is cut where it keeps `KEPT` of the nominal QCD jets that were put aside. Measured there: the efficiency of both kinds in each
version over the nominal one (the version of another seed shows what chance does), AUC, and the mean cosine of RS3L's standardised
latent vectors between a nominal jet and its other versions, and between a jet and the next, of whatever kind. What a QCD jet looks
like is made by the shower, what a top looks like by its decay too, so the cosine of versions is given by kind as well. Wanted: cosine of
versions above 0.9, of other jets below 0.3, and the mean of |ratio - 1| over both settings of the shower less tuned than from scratch, of
tops (`..._change`, what is compared) and of QCD jets. Bands are over SEEDS (3): first weights, order, and the halves. Settings are those of
`classes.py` and its like and were not searched for.

Smaller than published: thousands of hard processes instead of millions, `SIZES`, the `SLOTS` hardest constituents, two settings of one
shower program. About 8 minutes of one core. Results go to results/outliers.json, family resim.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from common import columns_of, publish, separation
from elsewhere.analysis.metrics import roc
from elsewhere.events import Events, fold_of, identity_hash, in_identity_order
from elsewhere.models.networks.cl4ad import build_encoder, settle
from elsewhere.models.networks.dense import build_dense, one_thread
from elsewhere.models.networks.particle_net import ROWS, ParticleNet
from elsewhere.models.probe import linear_probe
from elsewhere.models.representations.rs3l import Rs3l
from elsewhere.models.scores.weak_network import cross_entropy
from elsewhere.models.training import Sample, Task, TrainSettings, train

SET = os.environ.get("ELSEWHERE_SET", "full")
EPOCHS, TAGGER_EPOCHS = {"full": (24, 10), "small": (2, 2)}[SET]
KINDS, OTHERS = ("qcd", "top"), ("seed", "fsr_low", "fsr_high")
SHOWERS = OTHERS[1:]
VERSIONS = ("nominal", *OTHERS)
SLOTS, KEPT = 30, 0.1
SIZES = ParticleNet(neighbours=8, channels=(16, 32), width=64, dropout=0.0, posed=True, numbers=True)
HOW: dict[str, Any] = {
    "network": "particle_net", "particle_net": SIZES, "epochs": EPOCHS, "batch": 256, "learning_rate": 2e-3,
}  # fmt: skip


def hardest(events: Events) -> Events:
    """The first `SLOTS` constituents."""
    features = replace(events.features, columns=events.features.columns[: 3 * SLOTS], extras=())
    return replace(events, x=np.ascontiguousarray(events.x[:, : 3 * SLOTS]), features=features)


class Tagger(torch.nn.Module):
    """An encoder and a layer on its latent vector; first weights of the encoder from ``weights`` if there are any."""

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__()
        self.encoder: Any = build_encoder(config)
        if weights is not None:
            self.encoder.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()})
        self.encoder.head = torch.nn.Identity()
        self.out = build_dense({"sizes": [config["latent"], 16, 1], "seed": config["seed"]})

    def forward(self, x: Any) -> Any:
        """ln of the odds of a top, (B, 1)."""
        return self.out(self.encoder.represent(x).relu())


def tagger(made: Rs3l, samples: Sequence[tuple[np.ndarray, np.ndarray]], seed: int, *, tuned: bool) -> Tagger:
    """A tagger trained on (x, y) of ``samples[0]``, its epoch chosen by ``samples[1]``, both kinds of the same weight."""
    config = {**made._config(), "seed": seed}
    weights = made.weights_ if tuned else None
    both = []
    for x, y in samples:
        share = np.where(y > 0, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
        both.append(Sample(x, y.astype(np.float32), share))
    how = TrainSettings(TAGGER_EPOCHS, 128, 2e-3, seed=seed, shards=1, keep="best", schedule="cosine")
    task = Task(lambda c: Tagger({**c, "frozen": False}, weights), config, cross_entropy, *both)
    state = train(task, how).state
    network = Tagger({**config, "frozen": False})
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    with one_thread():
        settle(network.encoder, torch.from_numpy(samples[0][0]))
    frozen = Tagger({**config, "frozen": True})
    frozen.load_state_dict(network.state_dict())
    return frozen.eval()


def scores(network: Tagger, x: np.ndarray) -> np.ndarray:
    """The tagger's output, (n,)."""
    with one_thread(), torch.inference_mode():
        return np.concatenate([network(rows)[:, 0].numpy() for rows in torch.from_numpy(x).split(ROWS)])


def cosines(made: Rs3l, held: Mapping[str, Events], top: int) -> dict[str, float]:
    """Mean cosines of the latent vectors of jets that were put aside: nominal to each version, by kind too, and to the next jet."""
    unit: dict[str, np.ndarray] = {}
    for version in VERSIONS:
        z = made.transform(held[version]).x.astype(np.float64)
        unit[version] = z / np.linalg.norm(z, axis=1, keepdims=True)
    mixed = unit["nominal"][np.random.default_rng(5).permutation(len(unit["nominal"]))]
    found = {"cosine_random": float((mixed * np.roll(mixed, 1, axis=0)).sum(axis=1).mean())}
    numbers = {v: identity_hash(held[v].identity) for v in VERSIONS}
    for version in OTHERS:
        _, a, b = np.intersect1d(numbers["nominal"], numbers[version], return_indices=True)
        same = (unit["nominal"][a] * unit[version][b]).sum(axis=1)
        tops = held["nominal"].identity["run"][a] == top
        found[f"cosine_{version}"] = float(same.mean())
        found[f"cosine_qcd_{version}"] = float(same[~tops].mean())
        found[f"cosine_top_{version}"] = float(same[tops].mean())
    found["cosine_versions"] = float(np.mean([found[f"cosine_{v}"] for v in OTHERS]))
    return found


def efficiencies(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, float]:
    """AUC, SIC, rejections, efficiencies at the cut, ratios to nominal, and what both settings of the shower change; scores by version and kind."""
    nominal = found["nominal"]
    cut = np.quantile(nominal["qcd"], 1 - KEPT)
    passed = {v: {k: float((s > cut).mean()) for k, s in kinds.items()} for v, kinds in found.items()}
    out = separation(roc(nominal["top"], nominal["qcd"])) | {"efficiency": passed["nominal"]["top"]}
    for kind in KINDS:
        for version in OTHERS:
            out[f"{kind}_{version}_ratio"] = passed[version][kind] / passed["nominal"][kind]
        changes = [abs(out[f"{kind}_{v}_ratio"] - 1) for v in SHOWERS]
        out["change" if kind == "top" else f"{kind}_change"] = float(np.mean(changes))
    return out


def parted(parts: Mapping[str, Events], seed: int) -> list[dict[str, Events]]:
    """Both kinds by version, of the hard processes that are learnt from, that choose the epoch, and that are put aside."""
    both = {v: Events.concatenate([parts[f"{k}_{v}"] for k in KINDS]) for v in VERSIONS}
    folds = {v: fold_of(e.identity, 10, seed) for v, e in both.items()}
    cuts = (range(4), range(4, 5), range(5, 10))
    return [{v: e.take(np.isin(folds[v], list(cut))) for v, e in both.items()} for cut in cuts]


def measure(parts: Mapping[str, Events], seed: int) -> dict[str, float]:
    """All figures of one seed."""
    learnt, chosen, held = parted(parts, seed)
    made = Rs3l(**HOW, seed=seed, versions=tuple(learnt[v] for v in OTHERS))
    made = made.fit(learnt["nominal"], learnt["nominal"])
    top = int(parts["top_nominal"].identity["run"][0])

    def labelled(e: Events) -> tuple[np.ndarray, np.ndarray]:
        return e.x, e.identity["run"] == top

    def drawn(samples: Mapping[str, Events]) -> tuple[np.ndarray, np.ndarray]:
        """One version of every hard process."""
        every = in_identity_order(Events.concatenate([samples[v] for v in VERSIONS]), seed)
        every = every.take(np.random.default_rng([seed, 9]).permutation(len(every)))
        _, first = np.unique(identity_hash(every.identity), return_index=True)
        return labelled(every.take(first))

    plain = [labelled(s["nominal"]) for s in (learnt, chosen)]
    networks = {
        "scratch": tagger(made, plain, seed, tuned=False),
        "tuned": tagger(made, plain, seed, tuned=True),
        "augmented": tagger(made, [drawn(s) for s in (learnt, chosen)], seed, tuned=False),
    }
    by_kind = {v: {"qcd": e.take(~labelled(e)[1]), "top": e.take(labelled(e)[1])} for v, e in held.items()}
    found = {
        f"{way}_{name}": value
        for way, network in networks.items()
        for name, value in efficiencies(
            {v: {k: scores(network, e.x) for k, e in kinds.items()} for v, kinds in by_kind.items()}
        ).items()
    }
    z = [made.transform(s["nominal"]).x for s in (learnt, held)]
    probe = linear_probe(z[0], plain[0][1], z[1], labelled(held["nominal"])[1])
    seen = {
        v: {k: probe.score(made.transform(e).x) for k, e in kinds.items()} for v, kinds in by_kind.items()
    }
    found |= {f"probe_{name}": value for name, value in efficiencies(seen).items()}
    return found | cosines(made, held, top)


def main() -> None:
    """Train, test, print, publish."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    names = tuple(f"{k}_{v}" for k in KINDS for v in VERSIONS)
    parts = {k: hardest(e) for k, e in columns_of("resim", "constituents", names).items()}
    start = time.process_time()
    rows = []
    for seed in range(trials):
        rows.append(measure(parts, seed))
        print(f"  seed {seed} after {time.process_time() - start:.0f} s", flush=True)
    out: dict[str, Any] = {
        "resim_trainings": trials, "resim_jets": sum(map(len, parts.values())), "resim_kept": KEPT,
        "resim_epochs": [EPOCHS, TAGGER_EPOCHS],
    }  # fmt: skip
    for name in rows[0]:
        values = [row[name] for row in rows]
        out[f"resim_{name}"] = [float(f(values)) for f in (np.median, min, max)]
        print(f"  {name:28s} {np.median(values):.4f} [{min(values):.4f}, {max(values):.4f}]")
    for name in ("change", "qcd_change"):
        less = [row[f"scratch_{name}"] - row[f"tuned_{name}"] for row in rows]
        out[f"resim_tuned_less_{name}"] = [float(f(less)) for f in (np.median, min, max)]
        print(f"  {name} from scratch less tuned {np.median(less):+.4f} {np.round(less, 4)}, wanted above 0")
    publish("outliers", out, beside=True)


if __name__ == "__main__":
    main()
