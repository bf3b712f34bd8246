"""Parquet from somebody else: what is no track is refused by row, what is no file of ours whole."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample_tracks import DIM, STAMP, track
from unit_vectors import unit_rows

from confp_jax.database import Database, DatabaseError, TrackTags
from confp_jax.library.parquet import export_database, import_files

ABOUT = {"model": STAMP.name, "identity": STAMP.weights_hash, "hop_s": STAMP.hop_s}


def table_of(rows: list[dict], *, dim: int = DIM, **columns) -> pa.Table:
    """What `confp export` would have written of these rows, with other columns in their place."""
    texts = ("name", "path", "title", "artist", "album", "sha256")
    values = {name: pa.array([row.get(name, "") for row in rows], pa.string()) for name in texts}
    values["duration_s"] = pa.array([row.get("duration_s", 3.0) for row in rows], pa.float64())
    lists = [row.get("vectors", unit_rows(0, 4, dim)) for row in rows]
    lists = [None if rows is None else rows.astype(np.float16).tolist() for rows in lists]
    values["fingerprints"] = pa.array(lists, pa.list_(pa.list_(pa.float16(), dim)))
    return pa.table(values | columns).replace_schema_metadata({b"confp_jax": json.dumps(ABOUT)})


def a_row(number: int, **changes) -> dict:
    return {"name": f"n{number}", "path": f"/p/{number}", "sha256": f"{number:064x}"} | changes


@pytest.fixture
def database(tmp_path) -> Database:
    database = Database.create(tmp_path / "db", STAMP)
    with database.writing():
        database.add([track(0)])
    return database


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": None}, "its name is missing"),
        ({"title": None}, "its title is missing"),
        ({"album": "x" * 5_000}, "5000 characters"),
        ({"path": "/a\0b"}, "zero byte"),
        ({"sha256": "../../x"}, "no checksum"),
        ({"sha256": f"{1:064x}"}, "an earlier row of the file has its sha256"),
        ({"duration_s": None}, "length"),
        ({"duration_s": float("inf")}, "length"),
        ({"duration_s": -1.0}, "length"),
        ({"duration_s": 1e9}, "length"),
        ({"vectors": np.full((2, DIM), np.nan)}, "2 of its 2 vectors"),
        ({"vectors": np.full((2, DIM), np.inf)}, "2 of its 2 vectors"),
        (
            {"vectors": np.concatenate([unit_rows(0, 3, DIM), 9 * unit_rows(1, 1, DIM)])},
            "1 of its 4",
        ),
        ({"vectors": np.zeros((0, DIM))}, "no fingerprints"),
        ({"vectors": None}, "no fingerprints"),
    ],
)
def test_a_bad_row_does_not_end_the_good_ones(database, tmp_path, changes, reason):
    rows = [a_row(1), a_row(2, **changes), a_row(3)]
    pq.write_table(table_of(rows), tmp_path / "x.parquet")
    done = import_files(database, [tmp_path / "x.parquet"])
    assert (done.num_added, done.num_there, len(done.refused)) == (2, 0, 1)
    assert reason in done.refused[0] and "row 1" in done.refused[0]
    assert [t.name for t in database.tracks()] == ["Träck 0", "n1", "n3"]
    assert len(database.snapshot().vectors) == 5 + 8


@pytest.mark.parametrize(
    "columns",
    [
        {"name": pa.array([5])},
        {"duration_s": pa.array(["x"])},
        {"fingerprints": pa.array([[1.0, 2.0]], pa.list_(pa.float16()))},
        {"fingerprints": pa.array([[["x"] * DIM]], pa.list_(pa.list_(pa.string(), DIM)))},
        {"fingerprints": pa.array([7])},
    ],
)
def test_columns_of_another_kind_are_refused_before_anything_is_written(
    database, tmp_path, columns
):
    pq.write_table(table_of([a_row(1)]), tmp_path / "good.parquet")
    pq.write_table(table_of([a_row(2)], **columns), tmp_path / "odd.parquet")
    with pytest.raises(DatabaseError, match="odd.parquet: the column"):
        import_files(database, [tmp_path / "good.parquet", tmp_path / "odd.parquet"])
    assert len(database.tracks()) == 1


def test_a_missing_column_and_another_length(database, tmp_path):
    pq.write_table(table_of([a_row(1)]).drop_columns(["path"]), tmp_path / "x.parquet")
    with pytest.raises(DatabaseError, match="no column 'path'"):
        import_files(database, [tmp_path / "x.parquet"])
    pq.write_table(table_of([a_row(1)], dim=16), tmp_path / "x.parquet")
    with pytest.raises(DatabaseError, match="16 values, those of .* 32"):
        import_files(database, [tmp_path / "x.parquet"])
    assert len(database.snapshot().vectors) == 5


def test_nulls_among_a_track_s_vectors(database, tmp_path):
    good = unit_rows(0, 1, DIM)[0].astype(np.float16).tolist()
    lists = [[good, good], [None, good], None, [[None, *good[1:]]], [good]]
    vectors = pa.array(lists, pa.list_(pa.list_(pa.float16(), DIM)))
    rows = [a_row(number) for number in range(1, 6)]
    pq.write_table(table_of(rows, fingerprints=vectors), tmp_path / "x.parquet")
    done = import_files(database, [tmp_path / "x.parquet"])
    assert done.num_added == 2 and [
        reason.split("x.parquet, ")[1][:6] for reason in done.refused
    ] == ["row 1 ", "row 2 ", "row 3 "]
    assert "1 of its 2 vectors are missing" in done.refused[0]
    assert database.snapshot().vectors[5:8].tolist() == pytest.approx(np.array([good] * 3))


def test_a_damaged_group_of_rows_costs_itself_alone(database, tmp_path):
    path = tmp_path / "x.parquet"
    rows = [a_row(number, vectors=unit_rows(number, 40, DIM)) for number in range(1, 4)]
    plainly = {"use_dictionary": False, "compression": "none", "write_page_checksum": True}
    pq.write_table(table_of(rows), path, row_group_size=1, **plainly)
    data = bytearray(path.read_bytes())
    data[data.index(unit_rows(2, 40, DIM).astype(np.float16).tobytes()) + 9] ^= 1
    path.write_bytes(data)
    pq.write_table(table_of([a_row(9)]), tmp_path / "y.parquet")
    done = import_files(database, [path, tmp_path / "y.parquet"])
    assert done.num_added == 3 and len(done.refused) == 1
    assert "rows 1 to 1: damaged" in done.refused[0] and "CRC" in done.refused[0]


def test_a_text_that_is_no_utf_8(database, tmp_path):
    names = pa.array([b"n1", b"caf\xe9"]).view(pa.string())
    pq.write_table(table_of([a_row(1), a_row(2)], name=names), tmp_path / "x.parquet")
    done = import_files(database, [tmp_path / "x.parquet"])
    assert done.num_added == 1 and "row 1 ('caf\\xe9'): its name is no UTF-8" in done.refused[0]


def test_tags_go_out_and_come_in_and_older_files_have_none(database, tmp_path):
    known = TrackTags(isrc="DEABC9400001", label="Läbel")
    with database.writing():
        database.add([track(1, sha256="1" * 64, tags=known)])
    export_database(database, tmp_path / "out.parquet")
    old = [a_row(7)]
    pq.write_table(table_of(old), tmp_path / "old.parquet")
    other = Database.create(tmp_path / "other", STAMP)
    import_files(other, [tmp_path / "out.parquet", tmp_path / "old.parquet"])
    found = {one.name: one.tags for one in other.tracks()}
    assert found == {"Träck 1": known, "n7": None}


def test_a_group_of_rows_for_each_track_costs_no_shard_each(database, tmp_path):
    table = table_of([a_row(number) for number in range(1, 81)])
    pq.write_table(table, tmp_path / "many.parquet", row_group_size=1)
    commits = []
    add = database.add
    database.add = lambda tracks: commits.append(len(tracks)) or add(tracks)
    imported = import_files(database, [tmp_path / "many.parquet"])
    assert (imported.num_added, imported.num_there, commits) == (80, 0, [80])
    assert import_files(database, [tmp_path / "many.parquet"]).num_there == 80
