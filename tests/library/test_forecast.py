"""What a grown database takes, against sums that are made by hand."""

import pytest

from confp_jax.library.forecast import forecast
from confp_jax.library.maintenance import Info

FIELDS = {
    "model": "m",
    "identity": "0",
    "hop_s": 0.3,
    "format": "2",
    "num_tracks": 1_000,
    "duration_s": 360_000.0,
    "num_removed": 0,
    "num_shards": 1,
    "catalogue_bytes": 500_000,
    "index_bytes": 0,
    "index": "exact",
    "index_stale_share": 0.0,
}


@pytest.mark.parametrize(
    ("precision", "row_bytes", "index_bytes"),
    [("binary", 80, 80 + 8), ("float16", 256, 32 + 8), ("int8", 130, 32 + 8)],
)
def test_disk_and_memory(precision, row_bytes, index_bytes):
    num = 1_200_000
    info = Info(precision=precision, num_fingerprints=num, vector_bytes=num * row_bytes, **FIELDS)
    found = forecast(info, 10)
    assert (found.hours, found.num_fingerprints) == (1000.0, 10 * num)
    assert found.disk_bytes == 10 * num * (row_bytes + index_bytes) + 10 * 500_000
    assert found.memory_bytes == 10 * num * (index_bytes + 12) + 10_000 * 1_000 + (400 << 20)


def test_an_empty_database_has_none():
    info = Info(
        precision="binary", num_fingerprints=0, vector_bytes=0, **(FIELDS | {"num_tracks": 0})
    )
    assert forecast(info, 10).disk_bytes == 0
