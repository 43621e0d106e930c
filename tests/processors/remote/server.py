"""A real xrootd server on loopback for tests: Debian's xrootd-server, as an unprivileged user where this one is root."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from pathlib import Path

from .proxy import free_port

CONFIG = """\
xrd.port {port}
xrd.allow host localhost
xrd.allow host 127.0.0.1
all.export / r/o
all.adminpath {state}
all.pidpath {state}
oss.localroot {data}
xrd.timeout idle 600
"""


class Server:
    """``xrootd`` serving ``data`` read-only on `port`; it takes connections from this machine only.

    Another user must be able to read ``data``, so it cannot lie in pytest's private folder when the tests run as root.
    The server cannot be bound to one address, so it listens everywhere and refuses all hosts but loopback.
    """

    def __init__(self, data: Path, state: Path) -> None:
        self.data, self.state = data, state
        self.port = free_port()
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str | None:
        """Why no server can be started, or None."""
        return None if shutil.which("xrootd") else "no xrootd binary (Debian: apt-get install xrootd-server)"

    def start(self) -> Server:
        """Start it and wait until it answers."""
        self.state.mkdir(parents=True, exist_ok=True)
        config = self.state / "xrootd.cfg"
        config.write_text(CONFIG.format(port=self.port, state=self.state, data=self.data))
        if self._user is not None:
            os.chown(self.state, self._user.pw_uid, self._user.pw_gid)
        with (self.state / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["xrootd", "-I", "v4", "-c", str(config)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.state,
                env={"PATH": os.environ["PATH"], "HOME": str(self.state)},
                user=self._user.pw_uid if self._user else None, group=self._user.pw_gid if self._user else None,
                extra_groups=[] if self._user else None,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return self
        text = (self.state / "log").read_text(errors="replace")
        self.stop()
        raise RuntimeError(f"xrootd did not start:\n{text[-2000:]}")

    def stop(self) -> None:
        """End the process that this object started."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
