"""Which errors may pass, which are of the data and which are ours: of really produced errors, wherever they can be had."""

import errno
import lzma
import pickle
import socket
import socketserver
import struct
import threading
import time
import zlib
from pathlib import Path

import aiohttp
import cramjam
import fsspec
import numpy as np
import pytest
import uproot
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors.failures import classify
from elsewhere.processors.places import PATIENCE, RemoteSettings
from elsewhere.processors.remote import Unreadable, open_root
from fsspec.exceptions import FSTimeoutError

from .remote.proxy import free_port

ONCE = RemoteSettings(connect_timeout=1.0, idle_timeout=1.0, tries=1)


def damaged(folder, how):
    """A file whose baskets are damaged, read; ``how`` names the compression, or what is asked for in vain."""
    path = folder / "bad.root"
    values = np.random.default_rng(1).integers(0, 20, 5000).astype(np.float32)
    codecs = {
        "zlib": uproot.ZLIB(1), "lzma": uproot.LZMA(1), "lz4": uproot.LZ4(1), "zstd": uproot.ZSTD(1),
        "no branch": None, "no tree": None,
    }  # fmt: skip
    with uproot.recreate(path, compression=codecs[how]) as file:
        file.mktree("Events", {"x": "float32"})
        file["Events"].extend({"x": values})
    with uproot.open(path) as file:
        key = file["Events"]["x"].basket_key(0)
        start = key.fSeekKey + key.fKeylen
    raw = bytearray(path.read_bytes())
    if codecs[how] is not None:
        for i in range(30, 60):
            raw[start + i] ^= 0xFF
    path.write_bytes(raw)
    with uproot.open(path) as file:
        file["Other" if how == "no tree" else "Events"].arrays(["y" if how == "no branch" else "x"])


def not_root(folder, content):
    path = folder / "bad.root"
    path.write_bytes(content)
    open_root(str(path), PATIENCE)


@pytest.mark.parametrize("how", ["zlib", "lzma", "lz4", "zstd", "no branch", "no tree"])
def test_damage_is_of_the_data(tmp_path, how):
    with pytest.raises(Exception) as caught:
        damaged(tmp_path, how)
    assert classify(caught.value) == "data", repr(caught.value)


@pytest.mark.parametrize("content", [b"<html>login</html>" * 50, b"root" + bytes(600)])
def test_what_is_no_root_file_is_of_the_data(tmp_path, content):
    with pytest.raises(Exception) as caught:
        not_root(tmp_path, content)
    assert classify(caught.value) == "data", repr(caught.value)


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_cut_file_is_of_the_data_at_opening_and_while_it_is_read(folder, tmp_path, part):
    raw = (folder / "a.root").read_bytes()
    path = tmp_path / "cut.root"
    path.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(Exception) as caught:
        open_root(str(path), PATIENCE)
    assert classify(caught.value) == "data"
    with pytest.raises(Exception) as caught:
        uproot.open(path)["Events"].arrays()
    assert classify(caught.value) == "data", repr(caught.value)


def test_a_path_condemns_an_input_only_where_inputs_are_read(tmp_path):
    for path in (tmp_path / "absent.root", tmp_path):
        with pytest.raises(OSError) as caught:
            open_root(str(path), PATIENCE)
        assert classify(caught.value) == "data", repr(caught.value)
        with pytest.raises(OSError) as caught:
            path.read_bytes()
        assert classify(caught.value) == "bug"


def test_a_mistake_in_our_code_is_a_bug_wherever_it_is_caught(folder):
    def mistake():
        with open_root(str(folder / "a.root"), PATIENCE) as file:
            return {}[file["Events"].num_entries]

    for wrong in (mistake, lambda: int("x"), lambda: 1 / 0, lambda: np.zeros(3)[5]):
        with pytest.raises(Exception) as caught:
            wrong()
        assert classify(caught.value) == "bug"


def test_a_full_disk_is_a_bug_and_not_a_reason_to_try_again():
    with pytest.raises(OSError) as caught, Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")
    assert caught.value.errno == errno.ENOSPC
    assert classify(caught.value) == "bug"


class Web(socketserver.StreamRequestHandler):
    """An HTTP server that answers with the status in the path, or resets, or hangs."""

    def handle(self):
        what = self.rfile.readline().split()[1].decode().strip("/")
        if what == "reset":
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif what == "hang":
            time.sleep(1.5)
        else:
            self.wfile.write(f"HTTP/1.1 {what} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())


@pytest.fixture(scope="module")
def web():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Web) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.mark.parametrize(
    ("what", "kind"),
    [("500", "transient"), ("503", "transient"), ("429", "transient"), ("reset", "transient"), ("hang", "transient"),
     ("403", "data"), ("401", "data"), ("404", "data")],
)  # fmt: skip
def test_a_web_server_says_what_may_pass(web, what, kind):
    limit = aiohttp.ClientTimeout(total=None, sock_read=0.5)
    files = fsspec.filesystem("http", client_kwargs={"timeout": limit}, skip_instance_cache=True)
    with pytest.raises(Exception) as caught:
        files.cat_file(f"{web}/{what}")
    assert classify(caught.value) == kind, repr(caught.value)


def test_what_the_link_does_may_pass():
    found = []
    for wrong in (
        lambda: socket.create_connection(("127.0.0.1", free_port()), timeout=1),
        lambda: open_root(f"root://127.0.0.1:{free_port()}//store/a.root", ONCE),
        lambda: open_root("root://no.such.host.invalid//store/a.root", ONCE),
    ):
        with pytest.raises(OSError) as caught:
            wrong()
        found.append(classify(caught.value))
    assert found == ["transient"] * 3


#: What cannot be had on purpose on every machine; one line each for the table itself.
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.EIO, "x"), "transient"), (OSError(errno.ESTALE, "x"), "transient"),
        (OSError(errno.EMFILE, "x"), "transient"), (FSTimeoutError(), "transient"), (TimeoutError(), "transient"),
        (OSError(errno.EROFS, "x"), "bug"), (OSError(errno.EDQUOT, "x"), "bug"), (MemoryError(), "bug"),
        (NotImplementedError(), "bug"), (ImportError("x"), "bug"), (KeyboardInterrupt(), "bug"), (ConfigError("x"), "bug"),
        (InputError("x"), "data"), (Unreadable("x", "transient"), "transient"), (zlib.error("x"), "data"),
        (lzma.LZMAError("x"), "data"), (cramjam.DecompressionError("x"), "data"), (KeyError("x"), "bug"),
        (ValueError("x"), "bug"),
    ],
)  # fmt: skip
def test_the_table(error, kind):
    assert classify(error) == kind


def test_the_cause_decides_where_the_error_itself_says_nothing():
    class Wrapped(Exception):
        pass

    def wrong():
        try:
            raise zlib.error("x")
        except zlib.error as inner:
            raise Wrapped from inner

    with pytest.raises(Wrapped) as caught:
        wrong()
    assert classify(caught.value) == "data"
    loop = Wrapped()
    loop.__cause__ = loop
    assert classify(loop) == "bug"


def test_an_unreadable_file_keeps_its_kind_between_processes():
    assert pickle.loads(pickle.dumps(Unreadable("x", "transient"))).kind == "transient"
