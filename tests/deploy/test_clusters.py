"""Cluster sections, the scripts made of them, versions, addresses, and a local cluster; no batch system is needed."""

import copy
import os
import pickle
import re
import sys
from pathlib import Path

import cloudpickle
import pytest
import yaml
from distributed import Client, LocalCluster
from elsewhere.deploy.clusters import (
    ClusterSection,
    cluster_client,
    cluster_section,
    connect,
    dashboard_link,
    describe,
    job_script,
    ray_address,
    require_shared,
    section_for,
    send_models,
)
from elsewhere.deploy.clusters.batch import optional
from elsewhere.deploy.clusters.gate import (
    Gate,
    first_difference,
    found_versions,
    package_files,
    package_root,
    source_digest,
)
from elsewhere.deploy.clusters.sections import KINDS, AnyCluster
from elsewhere.deploy.clusters.shipping import package_archive
from elsewhere.deploy.clusters.start import pod_spec, require_versions
from elsewhere.errors import ConfigError
from elsewhere.workspace import write_json
from pydantic import BaseModel

ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "536870912", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def _by_value():
    """Workers cannot import this module: what it defines is sent to them."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as made:
        yield made


def test_local_needs_no_client():
    assert connect("local") is None


def test_a_running_scheduler_does_work(cluster):
    client = connect(cluster.scheduler_address, timeout_s=10)
    assert client is not None
    with client:
        assert client.submit(pow, 2, 10).result(timeout=10) == 1024


def test_other_versions_are_refused(cluster):
    client = connect(cluster.scheduler_address)
    assert client is not None
    with client:
        versions = client.get_versions()
    require_versions(versions, "tcp://x")
    other = copy.deepcopy(versions)
    other["scheduler"]["packages"]["distributed"] = "1.0"
    with pytest.raises(ConfigError, match=r"the scheduler of tcp://x has distributed 1.0"):
        require_versions(other, "tcp://x")
    other = copy.deepcopy(versions)
    next(iter(other["workers"].values()))["host"]["python"] = "3.9.1.final.0"
    with pytest.raises(ConfigError, match=r"worker .* runs Python 3.9"):
        require_versions(other, "tcp://x")


def test_a_scheduler_that_does_not_answer_is_named():
    with pytest.raises(ConfigError, match=r"no Dask scheduler answered at tcp://127.0.0.1:9 within 1 s"):
        connect("tcp://127.0.0.1:9", timeout_s=1)


@pytest.mark.parametrize("scheduler", ["cluster", "http://a:1", ""])
def test_an_address_of_another_kind_is_refused(scheduler):
    with pytest.raises(ConfigError, match="expected 'local'"):
        connect(scheduler)
    with pytest.raises(ConfigError, match="expected 'local'"):
        section_for(scheduler, 2)


def test_ray_addresses():
    assert ray_address("local") is None
    for spec in ("auto", "head:6379", "ray://head:10001"):
        assert ray_address(spec) == spec
    for spec in ("head", "ray://head", "tcp://head:1"):
        with pytest.raises(ConfigError, match="Ray address"):
            ray_address(spec)


SECTIONS = """
- {kind: local, workers: 3, memory: 4 GB}
- {kind: address, scheduler: "tls://localhost:8786", tls: {ca: ca.pem, certificate: cert.pem, key: key.pem}}
- {kind: htcondor, maximum: 20, cores: 4, memory: 8 GB, disk: 4 GB, directives: {+JobFlavour: '"longlunch"'}}
- {kind: slurm, jobs: 10, cores: 8, memory: 16 GB, walltime: "02:00:00", partition: short, account: cms}
- {kind: gateway, address: "https://hub.example.org/services/dask-gateway", minimum: 1, maximum: 40, package: ship}
- {kind: kubernetes, image: "registry.example.org/elsewhere:1", workers: 10, cores: 2, memory: 4 GiB}
"""


def test_every_kind_is_one_section_that_survives_yaml():
    class Run(BaseModel):
        cluster: AnyCluster | None = None

    found = [Run.model_validate({"cluster": raw}) for raw in yaml.safe_load(SECTIONS)]
    assert [type(f.cluster) for f in found] == list(KINDS)
    for run in found:
        again = Run.model_validate(yaml.safe_load(yaml.safe_dump(run.model_dump(mode="json"))))
        assert again == run
        assert isinstance(again.cluster, ClusterSection)
    assert section_for("local", 3) == cluster_section({"kind": "local", "workers": 3})
    assert section_for("tcp://a:1", 3) == cluster_section({"kind": "address", "scheduler": "tcp://a:1"})


TLS = {"ca": "a", "certificate": "b", "key": "c"}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"kind": "slrum"}, r"cluster.kind: unknown 'slrum'; did you mean 'slurm'\?"),
        ({"workers": 2}, "expected a mapping with a kind, one of local, address, htcondor"),
        ({"kind": "slurm", "partion": "x"}, r"cluster.partion: unknown key; did you mean 'partition'\?"),
        ({"kind": "local", "partition": "x"}, "cluster.partition: unknown key; known: .*workers"),
        ({"kind": "htcondor", "scheduler": {"hots": "x"}}, r"scheduler.hots: unknown key; did you mean 'host'\?"),
        ({"kind": "address", "scheduler": "tls://a:1", "tls": {**TLS, "cert": "d"}}, r"cluster.tls.cert: unknown key"),
        ({"kind": "slurm", "cores": "4"}, "cluster.cores: found '4', expected: a valid integer"),
        ({"kind": "slurm", "memory": "lots"}, "cluster.memory: found 'lots'"),
        ({"kind": "address"}, "cluster.scheduler: is missing"),
        ({"kind": "htcondor", "jobs": 3, "maximum": 9}, "give either jobs or minimum and maximum"),
        ({"kind": "gateway", "minimum": 3, "maximum": 2}, "minimum 3 is above maximum 2"),
        ({"kind": "slurm", "minimum": 3}, "minimum 3 needs a maximum"),
        ({"kind": "address", "scheduler": "tcp://a:1", "tls": TLS}, "not encrypted but tls is given"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_named(raw, message):
    with pytest.raises(ConfigError, match=message):
        cluster_section(raw)


HTCONDOR = """
MY.DaskWorkerName = "htcondor--$F(MY.JobId)--"
batch_name = WORKER
RequestCpus = MY.DaskWorkerCores
RequestMemory = floor(MY.DaskWorkerMemory / 1048576)
RequestDisk = floor(MY.DaskWorkerDisk / 1024)
MY.JobId = "$(ClusterId).$(ProcId)"
MY.DaskWorkerCores = 2
MY.DaskWorkerMemory = 4000000000
MY.DaskWorkerDisk = 2000000000
MY.SingularityImage = "/cvmfs/image"
+JobFlavour = "longlunch"

Arguments = "-c 'export MALLOC_TRIM_THRESHOLD_=536870912; export OMP_NUM_THREADS=1; source setup.sh; python3 -m \
distributed.cli.dask_worker tcp://SCHEDULER:PORT --name WORKER --nthreads 1 --memory-limit 1.86GiB --nworkers 2 --nanny \
--death-timeout 60.0 --worker-port 10000:10100'"
Executable = /bin/sh

Queue
"""

SLURM = """#!/usr/bin/env bash

#SBATCH -J elsewhere
#SBATCH -p short
#SBATCH -A cms
#SBATCH -n 1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH -t 02:00:00
#SBATCH --constraint=cvmfs
export MALLOC_TRIM_THRESHOLD_=536870912
export OMP_NUM_THREADS=1
source setup.sh
python3 -m distributed.cli.dask_worker tls://SCHEDULER:PORT --name WORKER --nthreads 1 --memory-limit 1.86GiB --nworkers 2 \
--nanny --death-timeout 60.0 --worker-port 10000:10100 --protocol tls:// --tls-ca-file FOLDER/ca.pem --tls-cert \
FOLDER/cert.pem --tls-key FOLDER/key.pem
"""

JOBS = {"cores": 2, "memory": "4 GB", "python": "python3", "prologue": ["source setup.sh"],
        "worker_extra": ["--worker-port", "10000:10100"]}  # fmt: skip


def test_the_htcondor_submit_file():
    more = {"image": "/cvmfs/image", "directives": {"+JobFlavour": '"longlunch"'}}
    section = cluster_section({"kind": "htcondor", **JOBS, **more})
    assert job_script(section, ENVIRONMENT).split("\n", 1)[1].strip() == HTCONDOR.strip()


def test_the_slurm_job_script(tmp_path):
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    tls = {"ca": str(tmp_path / "ca.pem"), "certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}  # fmt: skip
    more = {
        "partition": "short",
        "account": "cms",
        "walltime": "02:00:00",
        "directives": ["--constraint=cvmfs"],
    }
    section = cluster_section(
        {"kind": "slurm", **JOBS, **more, "tls": tls, "log_folder": str(tmp_path / "logs")}
    )
    script = job_script(section, ENVIRONMENT).replace(str(tmp_path), "FOLDER")
    assert script.strip() == SLURM.strip()
    assert not (tmp_path / "logs").exists()
    shown = describe(section, ENVIRONMENT)
    assert shown.startswith("cluster: slurm, 1 jobs of 2 cores and 4 GB, TLS\n")
    assert "export OMP_NUM_THREADS=1" in shown
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigError, match=r"cluster.tls.key: .*key.pem is not a file"):
        job_script(section)


def test_every_option_of_the_workers_command_exists():
    from click.testing import CliRunner
    from distributed.cli.dask_worker import main

    known = CliRunner().invoke(main, ["--help"]).output
    submit = (ROOT / "deploy" / "containers" / "htcondor.sub").read_text().split("arguments")[1]
    words = [w.strip("'\"") for w in (HTCONDOR + SLURM + submit).split() if w.startswith("--")]
    for word in [w for w in words if "=" not in w]:
        assert word in known, word


def test_the_pods_hold_one_thread_workers_and_the_environment():
    raw = yaml.safe_load(SECTIONS)[-1]
    spec = pod_spec(cluster_section({**raw, "environment": {"X509_USER_PROXY": "/p"}}), ENVIRONMENT)
    worker = spec["spec"]["worker"]
    pod = worker["spec"]["containers"][0]
    assert worker["replicas"] == 10
    assert pod["args"][:4] == ["dask", "worker", "--nthreads", "1"]
    assert pod["resources"]["limits"] == {"cpu": "2", "memory": "4Gi"}
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in pod["env"]
    assert {"name": "X509_USER_PROXY", "value": "/p"} in pod["env"]
    assert pod_spec(cluster_section({**raw, "memory": "4 GB"}))["spec"]["worker"]["spec"]["containers"][0][
        "resources"
    ]["requests"]["memory"] == "4G"  # fmt: skip


def test_a_missing_library_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    monkeypatch.setitem(sys.modules, "dask_jobqueue.slurm", None)
    with pytest.raises(ConfigError, match=r"needs dask-jobqueue .*pip install 'elsewhere\[slurm\]'"):
        job_script(cluster_section({"kind": "slurm"}))
    with pytest.raises(ConfigError, match=r"pip install 'elsewhere\[gateway\]'"):
        optional("no_such_library", "gateway")


def test_the_first_difference_is_named():
    mine = found_versions()
    assert {"Python", "dask", "msgpack", "numpy", "awkward", "uproot", "coffea", "pyarrow"} < set(mine)
    assert "none" not in mine.values()
    assert first_difference(mine, dict(mine)) is None
    assert first_difference(mine, {**mine, "numpy": "1.0"}) == f"has numpy 1.0, the client {mine['numpy']}"
    assert first_difference(mine, {k: v for k, v in mine.items() if k != "coffea"}).startswith("has coffea none")  # fmt: skip


def test_the_digest_is_that_of_the_source(tmp_path):
    root = package_root()
    files = {p.as_posix() for p in package_files(root)}
    assert {"__init__.py", "events.py", "deploy/clusters/gate.py", "models/scores/autoencoder.py"} <= files
    assert not [f for f in files if f.startswith(("tests/", ".venv/", "benchmarks/"))]
    import io
    import zipfile

    archive = package_archive()
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        file.extractall(tmp_path)
    assert source_digest(tmp_path / "elsewhere") == source_digest(root)
    assert len(archive) < 2_000_000
    (tmp_path / "elsewhere" / "events.py").write_text("changed = True\n")
    assert source_digest(tmp_path / "elsewhere") != source_digest(root)


def test_what_passes_the_gate_travels_as_source_text():
    gate = pickle.loads(pickle.dumps(Gate({"Python": "9.9"}, None, [])))
    assert type(gate) is not Gate
    assert gate() == f"has Python {sys.version_info.major}.{sys.version_info.minor}, the client 9.9"
    again = pickle.loads(pickle.dumps(gate))
    assert again() == gate()
    assert b"elsewhere.deploy.clusters.gate\n" not in pickle.dumps(gate, 0)


def variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ENVIRONMENT}


def listed_models() -> list[str]:
    folders = os.environ.get("ELSEWHERE_MODELS", "").split(os.pathsep)
    return sorted(f"{f}/{name}" for f in folders if f for name in os.listdir(f))


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def listening() -> set[str]:
    import psutil

    return {c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"}


def test_a_local_cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with cluster_client({"kind": "local", "workers": 1}, environment=ENVIRONMENT) as client:
        assert list(client.run(variables).values()) == [ENVIRONMENT]
        assert listening() == {"127.0.0.1"}
        assert set().union(*client.run(listening).values()) == {"127.0.0.1"}
        assert dashboard_link(client).startswith("http://127.0.0.1:")
        require_shared(client, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())
        folder = tmp_path / "model"
        write_json(folder / "model.json", {"sha256": "abc", "files": {"trees.txt": "x"}})
        (folder / "trees.txt").write_text("leaf")
        assert send_models(client, [folder]) == ["abc"]
        [paths] = client.run(listed_models).values()
        assert [os.path.basename(p) for p in paths] == ["abc"]
        assert not paths[0].startswith(str(tmp_path))
        assert list(client.run(read, f"{paths[0]}/trees.txt").values()) == ["leaf"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "ELSEWHERE_MODELS" not in os.environ


def unshared(folder: str, token: str, dask_worker=None):
    """A worker whose disk is its own: it seems to write, and nobody sees it."""


def test_a_folder_that_is_not_shared_is_refused(cluster, tmp_path, monkeypatch):
    from elsewhere.deploy.clusters import shipping

    with Client(cluster, set_as_default=False) as client:
        require_shared(client, tmp_path)
        monkeypatch.setattr(shipping, "_leave", unshared)
        with pytest.raises(ConfigError, match=r"what worker .* wrote is not seen here"):
            require_shared(client, tmp_path)
        monkeypatch.setattr(shipping, "_leave", lambda *_: "cannot use it (no such folder)")
        with pytest.raises(ConfigError, match=r"cannot use it .*put the workspace on a file system"):
            require_shared(client, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_worker_that_cannot_be_prepared_is_an_error():
    refused = pytest.raises(ConfigError, match="failed to prepare: ValueError: no accelerator")
    with refused, cluster_client({"kind": "local", "workers": 1}, plugins=[Fails()]):
        pass


class Fails:
    """A plugin that cannot be set up."""

    def setup(self, worker):
        raise ValueError("no accelerator")


ROOT = Path(__file__).resolve().parents[2]


def test_the_sections_of_the_guide_are_valid():
    """Every indented block of deploy/README.md that starts with run: is YAML with a valid section."""
    text = (ROOT / "deploy" / "README.md").read_text()
    blocks = re.findall(r"(?m)^    run:\n(?:      .*\n)+", text)
    kinds = [cluster_section(yaml.safe_load(block)["run"]["cluster"]).kind for block in blocks]
    assert kinds == ["address", "htcondor", "slurm", "kubernetes", "gateway"]


def test_the_files_for_containers_set_the_workers_environment():
    from elsewhere.processors.environment import WORKER_ENVIRONMENT

    folder = ROOT / "deploy" / "containers"
    for name, form in (
        ("Containerfile", "{}={}"), ("htcondor.sub", "{}={}"), ("helm-values.yaml", '"{}": "{}"'),
    ):  # fmt: skip
        text = (folder / name).read_text()
        assert not [k for k, v in WORKER_ENVIRONMENT.items() if form.format(k, v) not in text], name
    values = yaml.safe_load((folder / "helm-values.yaml").read_text())
    assert values["gateway"]["backend"]["worker"]["threads"] == 1
