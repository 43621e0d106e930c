"""The same training loop on the workers of a Ray cluster (Ray Train's TorchTrainer), and Ray itself made quiet.

Weights, moments and data pass through files in one folder, so a worker that is killed is started anew by Ray and goes
on from the last finished epoch. Gradients travel through torch.distributed (gloo; between GPUs nccl). A sample that is in Parquet
files is read and scaled by tasks of Ray Data (`training_stream_ray`).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, ElsewhereError, FeatureError, FitError, InputError
from ..workspace import atomic
from .arrays import write_arrays
from .device import chosen, on
from .networks.dense import one_thread
from .training_checkpoint import CHECKPOINT, finish, over, progressed, read_checkpoint, task_key
from .training_loop import Trainer
from .training_stream import ParquetSample
from .training_stream_ray import RayData
from .training_task import Progress, Sample, Task, TrainingResult, TrainSettings

log = logging.getLogger(__name__)

_DATA = "data.safetensors"
#: What is wrong with the input, if a worker found anything: another try would find it again.
_REFUSED = "refused.json"
_RESTARTS = 3
_OBJECT_STORE = 300_000_000
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # or Ray warns that it hides accelerators from tasks without one
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s by default: the least time any training takes
    # Ray ends processes beyond the number of CPUs that were idle for a second: those that read would start anew, and import
    # everything, for every part of an epoch. It warns of four times as many as may start at once.
    "RAY_idle_worker_killing_time_threshold_ms": "60000",
    "RAY_worker_maximum_startup_concurrency": "8",
    # Ray runs the loop in a second thread, whose arrays glibc gives back to the system at every step: the processes that a local
    # session starts keep them.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, and put back what was there."""
    before = {k: os.environ.get(k) for k in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def ray_session(address: str, workers: int) -> Iterator[Any]:
    """The ``ray`` module, connected.

    ``address``: "local" starts Ray on this machine with ``workers`` CPUs, at 127.0.0.1, and stops it at the end;
    anything else is a running cluster's address. A session that is already there is used and left running.
    """
    with _environment(_ENVIRONMENT), warnings.catch_warnings():
        # Ray's own modules use what Python and setuptools deprecate; nothing of it is ours to change.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        import ray

        started = not ray.is_initialized()
        if started:
            _connect(ray, address, workers)
        try:
            yield ray
        finally:
            if started:
                ray.shutdown()


def _connect(ray: Any, address: str, workers: int) -> None:
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address == "local":
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                _node_ip_address="127.0.0.1",
                **common,
            )
        else:
            ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ElsewhereError(f"no Ray at '{address}' ({error}); start the cluster, or use 'local'") from error


class _Distributed:
    """Gradients by torch.distributed, whose process group Ray Train has made."""

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.world = dist.get_rank(), dist.get_world_size()

    def gather(self, mine: Any) -> list[Any]:
        """Rows of all ranks in rank order."""
        import torch
        import torch.distributed as dist

        if self.world == 1:
            return [mine]
        parts = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(parts, mine)
        return parts

    def same(self, value: int) -> bool:
        """Whether all ranks gave the same number."""
        return len(set(self._numbers(value))) == 1

    def first(self, value: int) -> int:
        """What rank 0 gave."""
        return self._numbers(value)[0]

    def _numbers(self, value: int) -> list[int]:
        import torch

        return [int(t) for t in self.gather(torch.tensor([value], device=chosen()))]


def _loop(config: dict[str, Any]) -> None:
    """What every Ray worker runs."""
    from safetensors.numpy import load_file

    folder = Path(config["folder"])
    if (folder / _REFUSED).exists():
        return
    # Copied: NumPy asks for large pages where safetensors does not, and batches are rows from anywhere.
    loaded = load_file(folder / _DATA)
    arrays = {name: np.array(loaded.pop(name)) for name in list(loaded)}

    def sample(name: str) -> Sample | ParquetSample | None:
        if name in config["files"]:
            return config["files"][name]
        found = {k.split("/")[1]: v for k, v in arrays.items() if k.startswith(f"{name}/")}
        return Sample(**found) if found else None

    train = sample("train")
    if train is None:
        raise FitError(f"{folder / _DATA} holds no training events")
    rest = (train, sample("validation"), config["draws"])
    task = Task(config["build"], config["config"], config["loss"], *rest)

    # No ray.train.report: it waits for the controller's next poll, 2 s per epoch, and tells what the checkpoint holds.
    exchange, read = _Distributed(), RayData()
    try:
        with one_thread(), on(config["device"]):
            Trainer(task, config["settings"], exchange, read).run(folder, config["key"], None)
    except (InputError, FeatureError) as error:
        with atomic(folder / _REFUSED) as temporary:
            temporary.write_text(json.dumps([isinstance(error, FeatureError), str(error)]))
        if exchange.world > 1:
            raise  # the others may wait for this one; started anew, all of them end
    finally:
        read.close()


def train_on_ray(
    task: Task, settings: TrainSettings, folder: Path | None, progress: Progress | None
) -> TrainingResult:
    """Train by Ray Train; what `elsewhere.models.training.train` does for backend "ray"."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="elsewhere-") as temporary:
            return train_on_ray(task, settings, Path(temporary), progress)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    key = task_key(task, settings)
    found = read_checkpoint(folder, key)
    if found is None:
        (folder / CHECKPOINT).unlink(missing_ok=True)  # of another task
    elif over(done := progressed(*found), settings):
        return finish(done, task, settings)
    (folder / _REFUSED).unlink(missing_ok=True)
    _write_data(task, folder)
    with ray_session(settings.ray_address, settings.workers) as ray, _watched(folder, key, progress):
        if chosen() == "cuda":
            _check_gpus(ray, settings.workers)
        _fit(task, settings, folder, key)
    _raise_refused(folder)
    found = read_checkpoint(folder, key)
    if found is None:
        raise FitError(
            f"Ray finished without a checkpoint in {folder}; is the folder on a file system all workers share?"
        )
    (folder / _DATA).unlink(missing_ok=True)
    return finish(progressed(*found), task, settings)


def _raise_refused(folder: Path) -> None:
    path = folder / _REFUSED
    if path.exists():
        columns, text = json.loads(path.read_text())
        path.unlink()
        raise (FeatureError if columns else InputError)(text)


def _check_gpus(ray: Any, workers: int) -> None:
    """Ray would wait for GPUs that never come."""
    there = int(ray.cluster_resources().get("GPU", 0))
    if there < workers:
        raise ConfigError(
            f"{workers} workers need a GPU each, and this Ray cluster has {there}; ask for fewer workers"
        )


def _samples(task: Task) -> dict[str, Sample | ParquetSample | None]:
    return {"train": task.train, "validation": task.validation}


def _write_data(task: Task, folder: Path) -> None:
    samples = {n: s for n, s in _samples(task).items() if isinstance(s, Sample)}
    arrays = {f"{n}/{k}": v for n, s in samples.items() for k, v in s.arrays().items()}
    with atomic(folder / _DATA) as temporary:
        write_arrays(temporary, arrays)


def _fit(task: Task, settings: TrainSettings, folder: Path, key: str) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray").setLevel(logging.ERROR)
    on_gpu = chosen() == "cuda"
    trainer = TorchTrainer(
        _loop,
        train_loop_config={
            "build": task.build,
            "config": dict(task.config),
            "loss": task.loss,
            "draws": task.draws,
            "settings": settings,
            "files": {n: s for n, s in _samples(task).items() if isinstance(s, ParquetSample)},
            "device": chosen(),
            "folder": str(folder),
            "key": key,
        },
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": 1} | ({"GPU": 1} if on_gpu else {}),
        ),
        run_config=RunConfig(
            name=f"train-{key[:12]}",
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=_RESTARTS),
        ),
    )
    try:
        trainer.fit()
    except (
        Exception
    ) as error:  # Ray wraps whatever a worker raised in classes of its own, which differ by release
        raise FitError(f"training on Ray failed: {error}") from error


@contextmanager
def _watched(folder: Path, key: str, progress: Progress | None) -> Iterator[None]:
    """Call ``progress`` from a thread whenever the workers have finished an epoch."""
    if progress is None:
        yield
        return
    stop = threading.Event()
    seen = 0

    def look() -> None:
        nonlocal seen
        found = read_checkpoint(folder, key)
        if found is None:
            return
        info = found[0]
        for epoch in range(seen, info["epoch"]):
            losses = info["validation_loss"]
            progress(epoch + 1, info["train_loss"][epoch], losses[epoch] if losses else None)
        seen = max(seen, info["epoch"])

    def watch() -> None:
        while not stop.wait(0.5):
            look()

    thread = threading.Thread(target=watch, name="elsewhere-training-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
