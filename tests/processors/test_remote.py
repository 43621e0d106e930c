"""Reading over root:// from a real server through a link that misbehaves: in time, identical, and every failure named."""

import hashlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import awkward as ak
import pytest
from elsewhere.errors import ConfigError, InputError
from elsewhere.processors import remote, xrootd
from elsewhere.processors.failures import classify
from elsewhere.processors.features import Dijet
from elsewhere.processors.places import PATIENCE, RemoteSettings, candidates, pause_before
from elsewhere.processors.preflight import preflight
from elsewhere.processors.remote import Unreadable, attempt, open_root, received, server_name
from elsewhere.processors.stream import process
from elsewhere.samples.nano import write_nano

from .conftest import dijet_columns
from .remote.proxy import Proxy, free_port
from .remote.server import Server

#: Short limits; a test adds what it needs.
QUICK = {
    "connect_timeout": 1.0,
    "idle_timeout": 1.0,
    "minimum_rate": 50_000.0,
    "rate_period": 3.0,
    "pause": 0.05,
}
PATIENT = RemoteSettings(**QUICK, tries=4)
ONCE = RemoteSettings(**QUICK, tries=1)
#: For links that behave: a busy machine must not look like a silent server.
STEADY = replace(PATIENT, idle_timeout=30.0)


@pytest.fixture(scope="module")
def shared():
    """A folder that the server's unprivileged user can read, with files a.root, b.root and a larger one."""
    with tempfile.TemporaryDirectory(prefix="elsewhere-xrootd-") as name:
        path = Path(name)
        path.chmod(0o755)
        data = path / "data"
        (data / "store").mkdir(parents=True)
        for file, n, seed in (("a", 3000, 1), ("b", 1000, 2), ("large", 20_000, 3)):
            columns = dijet_columns(n, seed)
            columns["FatJet"]["eta"] = columns["FatJet"]["eta"] / 3  # keeps m_jj in its range
            write_nano(data / "store" / f"{file}.root", columns, basket=700)
        yield data


@pytest.fixture(scope="module")
def server(shared):
    missing = Server.missing()
    if missing:
        pytest.skip(missing)
    running = Server(shared, shared.parent / "state").start()
    yield running
    running.stop()


@pytest.fixture
def link(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """No test knows of another's failed servers."""
    monkeypatch.setattr(remote, "_resting", {})


def url(proxy, name="a"):
    return f"root://127.0.0.1:{proxy.port}//store/{name}.root"


def opened(place, settings):
    """The open file; a connection that does not come about at once is asked for again, as a stream would.

    The client now and then answers "socket error" to the first request of a healthy loopback server.
    """
    for _ in range(4):
        try:
            return open_root(place, settings)
        except ConnectionError:
            time.sleep(0.3)
    return open_root(place, settings)


def read(place, settings, opening=opened):
    with opening(place, settings) as file:
        return file["Events"].arrays(library="ak", how=dict)


def same(first, second):
    return list(first) == list(second) and all(
        ak.array_equal(first[k], second[k], equal_nan=True) for k in first
    )


def digests(out):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.rglob("*.parquet"))}


# Settings and places


def test_places_are_the_path_then_the_redirectors_each_once():
    two = RemoteSettings(("root://b.org/", "root://a.org:1094", "root://c.org"))
    assert candidates("root://me@a.org:1094//store/x.root?authz=1", two) == [
        "root://me@a.org:1094//store/x.root?authz=1",
        "root://b.org//store/x.root?authz=1",
        "root://c.org//store/x.root?authz=1",
    ]
    assert candidates("/store/x.root", two)[0] == "root://b.org//store/x.root"
    assert len(candidates("/store/x.root", two)) == 3
    assert candidates("/store/x.root", PATIENCE) == ["/store/x.root"]
    assert candidates("/data/x.root", two) == ["/data/x.root"]
    assert candidates("https://a.org/x.root", two) == ["https://a.org/x.root"]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"idle_timeout": 0}, "idle_timeout"),
        ({"connect_timeout": float("nan")}, "connect_timeout"),
        ({"tries": 0}, "tries 0"),
        ({"redirectors": ("a.org",)}, "'a.org' is not a server"),
        ({"redirectors": ("root://a.org//store",)}, "is not a server"),
    ],
)
def test_settings_that_cannot_be_are_refused(bad, text):
    with pytest.raises(ConfigError, match=text):
        RemoteSettings(**bad)


def test_pauses_double_are_spread_and_repeat():
    first = [pause_before(f"{i}", 1, PATIENCE) for i in range(200)]
    assert min(first) < 0.6
    assert max(first) > 1.4
    assert all(0.5 <= p <= 1.5 for p in first)
    assert first == [pause_before(f"{i}", 1, PATIENCE) for i in range(200)]
    assert 4.0 <= pause_before("x", 4, PATIENCE) <= 12.0
    assert pause_before("x", 40, PATIENCE) <= 90.0


# Reading from the server


def test_columns_are_those_of_the_file_itself(server, link, shared):
    local = read(str(shared / "store" / "large.root"), PATIENCE)
    with opened(url(link, "large"), STEADY) as file:
        tree = file["Events"]
        assert same(local, tree.arrays(library="ak", how=dict))
        assert 1_000_000 < received(tree) < 1.01 * (shared / "store" / "large.root").stat().st_size
        assert server_name(tree, url(link)) == f"127.0.0.1:{link.port}"


@pytest.mark.parametrize("mode", ["stall", "drip", "close", "reset", "refuse"])
@pytest.mark.parametrize("after", [0, 150_000])
def test_a_bad_link_is_a_passing_error_in_time_and_then_read_on(link, shared, mode, after):
    if after:
        link.turn(mode, after)
    else:
        link.mode = mode
    start = time.monotonic()
    with pytest.raises(OSError) as caught:
        read(url(link, "large"), ONCE, open_root)
    assert time.monotonic() - start < ONCE.idle_timeout + 1.0
    assert classify(caught.value) == "transient", repr(caught.value)
    # The broken handle is given up, and the same process goes on with the same server. (A connection that was still being
    # ended when the link came back is one more passing error.)
    link.mode = "pass"
    found, _, _ = attempt(url(link), PATIENT, lambda p: read(p, PATIENT, open_root))
    assert same(read(str(shared / "store" / "a.root"), ONCE), found)


def test_a_file_that_the_client_has_lost_unseen_is_a_passing_error(link):
    with opened(url(link, "large"), ONCE) as file:
        tree = file["Events"]
        handle = file.file.source.wire._file
        link.mode = "refuse"
        assert not handle.vector_read([(0, 1000)], timeout=2)[0].ok
        assert not handle.is_open()
        with pytest.raises(ConnectionError, match="was lost") as caught:
            tree.arrays()
        assert classify(caught.value) == "transient"


def test_a_dead_connection_is_not_used_again(link, shared, monkeypatch):
    # As where XRD_STREAMTIMEOUT is set: the client itself holds on to the connection.
    monkeypatch.setattr(xrootd, "configure", lambda _: xrootd._client().EnvPutInt("StreamTimeout", 60))
    link.turn("freeze", 150_000)
    with pytest.raises(TimeoutError):
        read(url(link, "large"), ONCE)
    assert same(read(str(shared / "store" / "a.root"), ONCE), read(url(link), ONCE))


def test_a_stall_holds_nobody_else_up(server, link, shared):
    link.turn("stall", 150_000)
    with pytest.raises(TimeoutError):
        read(url(link, "large"), ONCE)
    start = time.monotonic()
    other = Proxy(server.port)
    try:
        read(url(other), ONCE)
    finally:
        other.close()
    assert time.monotonic() - start < 1.0


def test_a_slow_healthy_link_is_not_cut(link, shared):
    link.mode = "slow"
    start = time.monotonic()
    found = read(url(link), ONCE)
    assert time.monotonic() - start > ONCE.idle_timeout
    assert same(found, read(str(shared / "store" / "a.root"), ONCE))


def test_a_link_below_the_minimum_rate_is_cut(link):
    link.mode = "slow"
    settings = RemoteSettings(
        **{**QUICK, "minimum_rate": 1e6, "idle_timeout": 10.0, "rate_period": 1.0}, tries=1
    )
    with pytest.raises(TimeoutError, match=r"gave \d+ bytes/s over 1 s, less than 1e\+06"):
        read(url(link, "large"), settings)


def test_a_stalled_server_that_comes_back_is_read_again(link, shared):
    link.turn("stall", 150_000)
    timer = threading.Timer(1.5, lambda: setattr(link, "mode", "pass"))
    timer.start()
    found, place, begun = attempt(url(link, "large"), PATIENT, lambda p: read(p, PATIENT, open_root))
    timer.join()
    assert same(found, read(str(shared / "store" / "large.root"), PATIENCE))
    assert place == url(link, "large")
    assert begun > 1


def test_the_second_place_is_used_where_the_first_is_dead_and_is_asked_first_from_then_on(server, link):
    settings = RemoteSettings((f"root://127.0.0.1:{server.port}",), **QUICK)
    link.mode = "refuse"
    found = [attempt(url(link), settings, lambda p: read(p, settings, open_root))[1:] for _ in range(2)]
    second = f"root://127.0.0.1:{server.port}//store/a.root"
    assert found == [(second, 2), (second, 1)]


def test_a_copy_that_is_damaged_is_read_elsewhere(server, link, shared):
    shutil.copy(shared / "store" / "a.root", shared / "store" / "bad.root")
    raw = (shared / "store" / "a.root").read_bytes()
    (shared / "store" / "bad.root").write_bytes(raw[: len(raw) // 2])
    settings = RemoteSettings((f"root://127.0.0.1:{server.port}",), **QUICK)

    def work(place):
        return read(place.replace("bad", "a") if str(server.port) in place else place, settings, open_root)

    _, place, begun = attempt(url(link, "bad"), settings, work)
    assert (str(server.port) in place, begun) == (True, 2)
    with pytest.raises(InputError, match=r"bad\.root was cut short"):
        attempt(url(link, "bad"), PATIENT, lambda p: read(p, PATIENT, open_root))


def test_all_dead_names_every_place_and_why(server, link):
    dead = free_port()
    link.mode = "stall"
    settings = RemoteSettings(
        (f"root://127.0.0.1:{dead}", f"root://127.0.0.1:{server.port}"), **QUICK, tries=2
    )
    with pytest.raises(Unreadable) as caught:
        attempt(url(link, "absent"), settings, lambda p: read(p, settings, open_root))
    text = str(caught.value)
    assert f"root://127.0.0.1:{link.port}//store/absent.root: TimeoutError: open: no answer" in text
    assert f"root://127.0.0.1:{dead}//store/absent.root: ConnectionError" in text
    assert f"root://127.0.0.1:{server.port}//store/absent.root: FileNotFoundError" in text
    assert "after 5 tries" in text  # the last was not asked twice
    assert caught.value.kind == "transient"


def test_a_file_that_is_not_there_is_not_asked_for_again(link):
    with pytest.raises(Unreadable, match=r"missing .*FileNotFoundError.*no such file") as caught:
        attempt(url(link, "absent"), PATIENT, lambda p: read(p, PATIENT, open_root))
    assert caught.value.kind == "data"
    assert link.connections == 1


def test_a_bug_is_raised_as_it_is_and_once(link):
    calls = []

    def work(place):
        calls.append(place)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        attempt(url(link), PATIENT, work)
    assert len(calls) == 1


def test_a_source_opens_again_in_another_process(link):
    with opened(url(link), STEADY) as file:
        source = file.file.source
        again = pickle.loads(pickle.dumps(source))
        assert again.num_bytes == source.num_bytes
        assert bytes(again.chunk(0, 4).raw_data) == b"root"
        again.close()
        assert again.closed
        with pytest.raises(OSError, match="is closed"):
            again.chunk(0, 4)


def test_requests_grow_on_a_fast_link(link):
    with opened(url(link, "large"), PATIENT) as file:
        before = file.file.source.wire._request
        file["Events"].arrays(library="ak")
        assert before == xrootd.first_request(PATIENT) == 25_000
        assert file.file.source.wire._request > 4 * before


# The whole stream


def test_the_preflight_reads_remote_files_and_lists_all_that_it_cannot(link, shared):
    names = ("a", "b")
    local = preflight({"d": [str(shared / "store" / f"{n}.root") for n in names]}, Dijet())["d"]
    found = preflight({"d": [url(link, n) for n in names]}, Dijet(), remote=STEADY)["d"]
    assert [(r.uuid, r.entries, r.clusters) for r in found] == [
        (r.uuid, r.entries, r.clusters) for r in local
    ]
    dead = f"root://127.0.0.1:{free_port()}//store/a.root"
    with pytest.raises(InputError) as caught:
        preflight({"d": [url(link), url(link, "absent"), dead]}, Dijet(), remote=ONCE)
    text = str(caught.value)
    assert text.startswith("2 of the input files cannot be used")
    assert "absent.root missing (root://" in text
    assert f"{dead} not readable after 1 tries ({dead}: ConnectionError: open: " in text


def test_a_logical_name_is_found_at_a_redirector(server, link, shared):
    settings = RemoteSettings((f"root://127.0.0.1:{link.port}", f"root://127.0.0.1:{server.port}"), **QUICK)
    link.mode = "refuse"
    found = preflight({"d": ["/store/a.root"]}, Dijet(), remote=settings)
    assert (found["d"][0].path, found["d"][0].entries) == ("/store/a.root", 3000)


@pytest.fixture(scope="module")
def plain(shared, tmp_path_factory):
    """The chunks of an undisturbed run over files of this machine, and its sum of weights."""
    out = tmp_path_factory.mktemp("plain")
    found = preflight({"qcd": [str(shared / "store" / "large.root")]}, Dijet())
    report = process(found, Dijet(), out, scheduler="loop", chunk=5000)
    return report.datasets["qcd"], report.histogram


def start_when_bad(link, timer):
    while link.mode == "pass":
        time.sleep(0.01)
    timer.start()


@pytest.mark.parametrize("mode", ["stall", "close"])
def test_a_server_that_fails_in_mid_run_changes_nothing(link, plain, tmp_path, mode):
    found = preflight({"qcd": [url(link, "large")]}, Dijet(), remote=STEADY)
    link.turn(mode, 400_000)
    back = threading.Timer(1.2, lambda: setattr(link, "mode", "pass"))
    settings = RemoteSettings(**{**QUICK, "pause": 0.4}, tries=6)
    threading.Thread(target=start_when_bad, args=(link, back), daemon=True).start()
    report = process(found, Dijet(), tmp_path / "a", scheduler="loop", chunk=5000, remote=settings)
    link.mode = "pass"
    slow = replace(
        settings, idle_timeout=30.0, minimum_rate=0.0
    )  # a busy machine is no failure of the server
    calm = process(found, Dijet(), tmp_path / "b", scheduler="loop", chunk=5000, remote=slow)
    assert report.retried > 0
    assert calm.retried == 0
    assert report.datasets["qcd"] == plain[0]
    assert report.histogram == plain[1]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert report.servers == {f"127.0.0.1:{link.port}": report.bytes_read}
    assert report.bytes_read == calm.bytes_read > 800_000


STALLED_AT_THE_END = """
import sys
from elsewhere.processors.places import RemoteSettings
from elsewhere.processors.remote import open_root

settings = RemoteSettings(connect_timeout=1.0, idle_timeout=1.0, tries=1)
file = open_root(sys.argv[1], settings)
print("open", flush=True)
sys.stdin.readline()
try:
    file["Events"].arrays()
except TimeoutError:
    print("late", flush=True)
"""


def test_a_process_with_a_stalled_handle_can_end(link):
    child = subprocess.Popen(
        [sys.executable, "-c", STALLED_AT_THE_END, url(link, "large")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout.readline() == "open\n"
        link.turn("stall", 150_000)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "late\n"
        assert child.wait(timeout=3) == 0
