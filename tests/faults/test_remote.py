"""A web server on loopback that errs, hangs up, stalls and drips: what may pass is tried again, what lasts is named in time."""

import re
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import uproot
from elsewhere.errors import InputError
from elsewhere.processors import driver
from elsewhere.processors.features import Dijet
from elsewhere.processors.preflight import preflight
from elsewhere.processors.stream import process
from elsewhere.workspace import Workspace

from .conftest import checked


class Handler(BaseHTTPRequestHandler):
    """Serves one file with ranges; ``server.fault`` says what is wrong with the next answers."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        self.server.asked += 1
        fault = self.server.faults.pop(0) if self.server.faults else self.server.fault
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            # SO_LINGER 0: closing sends a reset.
            self.connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if fault == "hang":
            self.server.stop.wait(30)
            self.close_connection = True
            return
        whole = self.server.path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(found[1]) if found else 0
        last = min(int(found[2]) if found and found[2] else len(whole) - 1, len(whole) - 1)
        self.send_response(206 if found else 200)
        self.send_header("Accept-Ranges", "bytes")
        if found:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if body and fault in ("drip", "slow"):
            step = 1 if fault == "drip" else -(-(last - first + 1) // 6)
            for at in range(first, last + 1, step):
                if self.server.stop.wait(0.3):
                    break
                self.wfile.write(whole[at : min(at + step, last + 1)])
            self.close_connection = fault == "drip"
        elif body:
            self.wfile.write(whole[first : last + 1])


@pytest.fixture
def server(good):
    """Serves good.a as a.root; ``faults``: of the next requests, ``fault``: of all after them."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads, made.handle_error = True, lambda *_: None
    made.path, made.fault, made.faults, made.asked, made.stop = Path(good.a), None, [], 0, threading.Event()
    made.url = f"http://127.0.0.1:{made.server_address[1]}/a.root"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.stop.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def found(server, monkeypatch):
    """The preflighted file of the server, while all is well; waiting between tries is cut short."""
    pause = time.sleep
    monkeypatch.setattr(driver.time, "sleep", lambda s: pause(min(s, 0.01)))
    return preflight({"data": [server.url]}, Dijet())


@pytest.fixture
def want(good, tmp_path):
    """What the local file gives."""
    process(checked(good.a), Dijet(), tmp_path / "want", chunk=200, scheduler="loop", key="k")
    return events_of(tmp_path / "want")


def events_of(out):
    """Bytes of the events of a pass; its chunks also say where the file was read."""
    events = Workspace(out).read_table("data").events
    return events.x.tobytes(), events.mass.tobytes(), events.weight.tobytes(), events.identity.tobytes()


def run(found, out):
    from elsewhere.processors.reading import open_tree

    open_tree.cache_clear()
    return process(found, Dijet(), out, chunk=200, scheduler="loop", key="k")


@pytest.mark.fault(31)
def test_a_healthy_server_gives_the_bits_of_the_file(found, want, tmp_path):
    run(found, tmp_path / "out")
    assert events_of(tmp_path / "out") == want


@pytest.mark.fault(31)
@pytest.mark.parametrize("faults", [[500], [503, 503], ["reset"], [503, "reset", 502]], ids=str)
def test_errors_that_pass_change_nothing(server, found, want, tmp_path, faults):
    server.faults = list(faults)
    run(found, tmp_path / "out")
    assert server.faults == []
    assert events_of(tmp_path / "out") == want


@pytest.mark.fault(31)
@pytest.mark.parametrize("fault", [500, 503, "reset"])
def test_errors_that_last_are_named_after_a_few_tries(server, found, tmp_path, fault):
    server.fault, server.asked = fault, 0
    with pytest.raises(
        InputError, match=r"http://127\.0\.0\.1.*a\.root.*not readable after \d tries"
    ) as caught:
        run(found, tmp_path / "out")
    if isinstance(fault, int):
        assert str(fault) in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert 2 <= server.asked < 40


@pytest.mark.fault(31)
def test_the_preflight_tries_again_too(server, monkeypatch):
    pause = time.sleep
    monkeypatch.setattr(time, "sleep", lambda s: pause(min(s, 0.01)))
    server.faults = [503, "reset"]
    assert preflight({"data": [server.url]}, Dijet())["data"][0].entries == 600


#: Limits that fit a test.
QUICK = {
    "connect_timeout": 1.0,
    "idle_timeout": 1.0,
    "minimum_rate": 10_000.0,
    "rate_period": 1.0,
    "tries": 2,
    "pause": 0.01,
}
LIMIT_S = 15.0


def patient_read(url):
    """(the first 200 events' jets, or the error; seconds) of a read with `QUICK` limits, given up after `LIMIT_S`."""
    from elsewhere.processors.places import RemoteSettings
    from elsewhere.processors.remote import attempt, open_root

    settings, found = RemoteSettings(**QUICK), []

    def work(place):
        with open_root(place, settings) as file:
            return file["Events"]["FatJet_pt"].array(entry_stop=200)

    def read():
        try:
            found.append(attempt(url, settings, work)[0].to_list())
        except InputError as error:
            found.append(error)

    start, thread = time.monotonic(), threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    assert not thread.is_alive(), f"still waiting after {LIMIT_S:g} s"
    return found[0], time.monotonic() - start


@pytest.mark.fault(30)
@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_server_that_stalls_is_given_up_in_time_and_named(server, fault):
    server.fault = fault
    error, seconds = patient_read(server.url)
    assert isinstance(error, InputError)
    assert re.search(r"not readable after 2 tries \(http://127\.0\.0\.1.*a\.root", str(error))
    assert seconds < LIMIT_S


@pytest.mark.fault(30)
@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_stall_that_passes_is_survived(server, good, fault):
    server.faults = [fault]
    events, _ = patient_read(server.url)
    with uproot.open(good.a) as file:
        assert events == file["Events"]["FatJet_pt"].array(entry_stop=200).to_list()


@pytest.mark.fault(30)
def test_a_slow_healthy_link_is_not_cut(server, good):
    """Twice as slow as the idle limit in all, but never silent for that long."""
    server.fault = "slow"
    events, seconds = patient_read(server.url)
    with uproot.open(good.a) as file:
        assert events == file["Events"]["FatJet_pt"].array(entry_stop=200).to_list()
    assert seconds > 2 * QUICK["idle_timeout"]
