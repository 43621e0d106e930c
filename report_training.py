"""The report's part on how networks were trained: learning curves, and how much of a latent space is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .analysis.plots import TrainingCurve, plot_training
from .analysis.report import ReportFigure, ReportPart, ReportTable
from .models.store import Trained, trainings_of


def _network(place: str) -> str:
    """What a place inside a model is to a reader: the score, its representation, a part of either."""
    words: list[str] = []
    for part in place.split():
        word = "score" if part in ("inner", "model") else part
        words += [] if words[-1:] == [word] else [word]
    if "representation" in words:  # beside the score, whatever is around both
        words = words[words.index("representation") :]
    return " ".join(words)


def training_part(folder: Path, label: str) -> ReportPart | None:
    """Learning curves of every network in a stored model; None where nothing in it has epochs."""
    groups: dict[str, list[Trained]] = {}
    for one in trainings_of(folder):
        groups.setdefault(_network(one.place), []).append(one)
    if not groups:
        return None
    figures, rows = [], []
    for name, found in groups.items():
        curves = [
            TrainingCurve(
                f"{name} {t.number}".strip(),
                t.record["train_loss"],
                t.record["validation_loss"] or (),
                events_per_s=_speeds(t.record),
            )
            for t in found
        ]
        records = [t.record for t in found]
        figures.append(
            ReportFigure(
                f"training_{name.replace(' ', '_')}", plot_training(curves, label=label),
                f"Loss per epoch, {name}{'' if len(found) == 1 else f': {len(found)} trainings, one per fold or member'}.{_stopped(records)}",
                records if len(records) > 1 else records[0],
            )
        )  # fmt: skip
        workers = sorted({(r["backend"], r["workers"]) for r in records})
        rows.append((
            name, len(found), f"{max(r['epochs'] for r in records)}", f"{sum(r['wall_s'] for r in records):,.1f}",
            f"{np.median([r['events_per_s'] for r in records]):,.0f}", ", ".join(f"{b} on {w}" for b, w in workers), _latent(found),
        ))  # fmt: skip
    heads = (
        "network", "trainings", "epochs", "seconds together", "events per second and training", "backend and workers",
        "latent space",
    )  # fmt: skip
    return ReportPart(
        "Training",
        "The model is the same to the last bit on any number of workers.",
        figures=figures,
        tables=[ReportTable(heads, rows, "Every network of the model.")],
    )


def _speeds(record: dict[str, Any]) -> list[float]:
    """Events per second of every epoch; none where the record is older than that."""
    spent = record.get("epoch_s") or []
    events = record["events_per_s"] * record["wall_s"] / max(1, record["epochs"])
    return [events / s for s in spent] if all(s > 0 for s in spent) else []


def _stopped(records: list[dict[str, Any]]) -> str:
    """After which epochs early stopping ended trainings; empty where it ended none."""
    found = sorted({r["stopped_at"] for r in records if r.get("stopped_at")})
    if not found:
        return ""
    some = "" if len(records) == 1 else " of some of them"
    return f" Early stopping{some} after epoch {', '.join(map(str, found))}; the best epoch is kept."


def _latent(found: list[Trained]) -> str:
    """Effective rank and uniformity, the worst of the trainings."""
    known = [t.latent for t in found if t.latent is not None]
    if not known:
        return "-"
    worst = min(known, key=lambda latent: latent["effective_rank"])
    return f"effective rank {worst['effective_rank']:.3g} of {len(worst['spectrum'])}, uniformity {worst['uniformity']:.3g}"
