"""Ranges: every entry in one of them, none larger than asked, ends where baskets end if one is near enough."""

import pytest
from elsewhere.processors.features import Dijet, Level1
from elsewhere.processors.preflight import FileRecord
from elsewhere.processors.stream import LARGEST, RANGE_BYTES, best_chunk, split


def ranges(entries, chunk, clusters=()):
    record = FileRecord("f.root", "u", entries, 1, None, None, clusters=tuple(clusters))
    return [(u.start, u.stop) for u in split({"d": [record]}, chunk, {})]


@pytest.mark.parametrize(
    "clusters", [(), (700, 1400, 2100, 2800, 3000), (3000,), (1000, 3000), (1,), (2999, 3000)]
)
@pytest.mark.parametrize("chunk", [1, 7, 800, 3000, 10_000])
def test_ranges_tile_a_file_and_are_never_larger_than_asked(clusters, chunk):
    found = ranges(3000, chunk, clusters)
    assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])]
    assert found[-1][1] == 3000
    assert max(b - a for a, b in found) <= chunk
    assert all(b > a for a, b in found)


def test_ranges_end_with_baskets():
    assert ranges(3000, 800, (700, 1400, 2100, 2800, 3000)) == [
        (0, 700),
        (700, 1400),
        (1400, 2100),
        (2100, 2800),
        (2800, 3000),
    ]
    assert ranges(3000, 1500, (700, 1400, 2100, 2800, 3000)) == [(0, 1400), (1400, 2800), (2800, 3000)]


def test_a_basket_end_too_near_is_passed_by():
    assert ranges(3000, 1000, (300, 3000)) == [(0, 1000), (1000, 2000), (2000, 3000)]


def test_an_empty_file_is_one_empty_range():
    assert ranges(0, 100) == [(0, 0)]


def test_the_chosen_chunk_keeps_the_feature_array_small():
    for features in (Dijet(), Level1()):
        row = 4 * (len(features.features) + len(features.features.extras))
        assert best_chunk(features) * row <= RANGE_BYTES
        assert 50_000 <= best_chunk(features) <= LARGEST
