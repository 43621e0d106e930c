"""Bits that flip on disk: seen by the codec where it has a checksum, by ours where it has none."""

import re

import awkward as ak
import numpy as np
import pytest
import uproot
from elsewhere.errors import InputError
from elsewhere.processors.features import Dijet
from elsewhere.processors.stream import process

from .conftest import EVENTS, checked, columns, flip, flip_value, products, write


@pytest.mark.fault(7)
@pytest.mark.parametrize("codec", ["zlib", "lz4", "lzma"])
def test_a_flipped_bit_under_a_checksum_puts_the_file_aside(small, good, codec):
    bad = write(small.folder / "bad.root", columns(seed=3), codec=codec)
    flip(bad, basket=2)
    code, said = small.write(bad, good.a).call("process")
    assert code == 3, said
    counts = small.counts()
    (aside,) = counts["quarantine"]
    assert (aside["path"], aside["events"]) == (str(bad), EVENTS)
    assert "400-600" in aside["reason"]
    # The first two ranges could be read; a file that is put aside gives none of them.
    assert counts["datasets"]["data"]["kept"] == EVENTS
    assert all(aside["uuid"] not in name for name in small.chunks())
    assert counts["complete"] is False


@pytest.mark.fault(7)
@pytest.mark.parametrize("codec", ["zlib", "lz4", "lzma"])
def test_strict_names_the_range_of_a_flipped_bit(tmp_path, codec):
    bad = write(tmp_path / "bad.root", codec=codec)
    found = checked(bad)
    flip(bad)
    with pytest.raises(InputError, match=r"bad\.root, entries 200-400: damaged"):
        process(found, Dijet(), tmp_path / "out", chunk=200, scheduler="loop")
    assert not (tmp_path / "out" / "histograms.root").exists()


def masses(path):
    """FatJet_mass as uproot reads it now, past its caches."""
    with uproot.open(path, object_cache=None, array_cache=None) as file:
        return ak.to_numpy(ak.flatten(file["Events"]["FatJet_mass"].array()))


def silent_flip(path):
    """Flip a bit that uproot does not notice; the values it reads really change."""
    raw, before = path.read_bytes(), masses(path)
    for byte in range(400, 700):
        flip(path, "FatJet_mass", byte=byte, bit=0)
        try:
            after = masses(path)
        except Exception:
            after = before
        if len(after) == len(before) and (after != before).any() and np.isfinite(after).all():
            return
        path.write_bytes(raw)
    raise AssertionError("every flipped bit was noticed")


@pytest.mark.fault(6)
@pytest.mark.parametrize("codec", ["zstd", "none"])
def test_verify_sees_a_bit_that_flipped_without_a_checksum(small, codec):
    path = write(small.folder / "a.root", codec=codec)
    small.write(path)
    assert small.call("process")[0] == 0
    assert small.call("verify")[0] == 0
    silent_flip(path)
    code, said = small.call("verify")
    assert code == 1, said
    assert "a.root" in said


@pytest.mark.fault(6)
def test_a_value_outside_the_columns_range_is_the_last_line(small):
    """2 TeV with one bit of its exponent flipped is more energy than the collider has."""
    raw = columns(seed=3, weights=False)
    bad = write(small.folder / "bad.root", raw, codec="none")
    value = flip_value(bad, "FatJet_pt", float(raw["FatJet_pt"][10, 0]), bit=29)
    assert 1e15 < value < np.inf
    code, said = small.write(bad).call("process", "--strict")
    assert code == 1, said
    assert re.search(r"bad\.root.*m_jj.*13[,_]?000", said.replace("\n", " ")), said


@pytest.mark.fault(6)
def test_flipped_bits_in_our_own_chunks_are_seen_by_verify(small, good):
    small.write(good.a)
    assert small.call("process")[0] == 0
    chunk = sorted(small.space.glob("columns/data/*.parquet"))[1]
    raw = bytearray(chunk.read_bytes())
    for at in range(len(raw) // 3, len(raw) // 3 + 4):
        raw[at] ^= 1
    chunk.write_bytes(raw)
    code, said = small.call("verify")
    assert code == 1, said
    assert chunk.name in said
    assert products(small.space)
