"""Schedulers and workers as a facility starts them: processes of their own, found by address, with certificates."""

import datetime
import ipaddress
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from elsewhere.processors.environment import WORKER_ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]


def write_certificates(folder: Path) -> dict[str, str]:
    """A certificate authority and one certificate for 127.0.0.1 signed by it, as ``tls`` of a section."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def sign(subject, key, by, by_key, *extensions):
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
        made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(1))
        made = made.not_valid_after(now + datetime.timedelta(1))
        for extension in extensions:
            made = made.add_extension(extension, critical=False)
        return made.sign(by_key, hashes.SHA256())

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = sign(name("test"), ca_key, name("test"), ca_key, x509.BasicConstraints(ca=True, path_length=None))
    where = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    mine = sign(name("127.0.0.1"), key, name("test"), ca_key, where)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for file, content in (
        ("ca.pem", ca.public_bytes(pem)), ("cert.pem", mine.public_bytes(pem)), ("key.pem", private),
    ):  # fmt: skip
        (folder / file).write_bytes(content)
    return {
        "ca": str(folder / "ca.pem"),
        "certificate": str(folder / "cert.pem"),
        "key": str(folder / "key.pem"),
    }


@dataclass
class Processes:
    """A scheduler and its workers; `stop` ends those that are left."""

    folder: Path
    tls: dict[str, str] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    address: str = ""
    running: list[subprocess.Popen] = field(default_factory=list)

    def _start(self, what: str, *options: str, environment=None) -> tuple[subprocess.Popen, Path]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--host", "127.0.0.1", *options]
        if self.tls is not None:
            command += ["--protocol", "tls", "--tls-ca-file", self.tls["ca"], "--tls-cert", self.tls["certificate"],
                        "--tls-key", self.tls["key"]]  # fmt: skip
        log = self.folder / f"{what}{len(self.running)}.log"
        env = {**os.environ, **WORKER_ENVIRONMENT}
        first = environment or self.environment
        if "PYTHONPATH" in first:
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (first["PYTHONPATH"], env.get("PYTHONPATH"))))
        with log.open("w") as out:
            process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=ROOT, env=env, start_new_session=True
            )
        self.running.append(process)
        return process, log

    def scheduler(self) -> str:
        """Start the scheduler; its address."""
        _, log = self._start("scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            found = re.search(r"Scheduler at:\s+(\S+)", log.read_text())
            if found:
                self.address = found[1]
                return self.address
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    def worker(self, environment: dict[str, str] | None = None) -> subprocess.Popen:
        """Start a worker under a nanny."""
        options = (self.address, "--nthreads", "1", "--local-directory", str(self.folder), "--no-dashboard")
        return self._start("worker", *options, environment=environment)[0]

    def kill(self, process: subprocess.Popen) -> None:
        """As a batch system does: the nanny, its worker, at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End what is left."""
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill(process)
