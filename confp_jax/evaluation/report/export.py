"""Results of every query as CSV and Parquet, and in the format of Pexeso's Audio Fingerprinting
Benchmark Toolkit.

That toolkit's `matches.csv` and `annotations.csv` hold reference_id, query_id and begin and end of
both in whole seconds: its `evaluate_matches.py` can judge ours, and ours can read what another
program matched.
"""

import csv
import math
import pathlib
from collections.abc import Mapping, Sequence

from confp_jax.data.records import DatasetError
from confp_jax.evaluation.measure.query_results import KINDS, Outcomes
from confp_jax.evaluation.measure.query_sets import QuerySet
from confp_jax.evaluation.measure.summary import RATES
from confp_jax.evaluation.systems.protocol import Found
from confp_jax.matching.decision import confidence

PEXESO_FIELDS = (
    "reference_id",
    "query_id",
    "reference_begin",
    "reference_end",
    "query_begin",
    "query_end",
)


def query_rows(
    model: str, measured: Mapping[tuple[QuerySet, str], Outcomes]
) -> list[dict[str, object]]:
    """Returns one dictionary for each query; all have the same keys."""
    out: list[dict[str, object]] = []
    for (queries, condition), one in measured.items():
        hits = {f"top{k}_{kind}": one.hits(kind, k=k) for k in (1, 5) for kind in KINDS}
        trials = one.trials
        verdicts = {f"accepted_right_{rate:g}": trials.accepted_right(rate) for rate in RATES}
        verdicts |= {f"false_alarm_{rate:g}": trials.false_alarms(rate) for rate in RATES}
        sure = confidence(trials.known_logit)
        out.extend(
            {
                "model": model,
                "query_set": queries.name,
                "condition": condition,
                "length_s": queries.length_s,
                "seed": queries.seed,
                "row": int(one.rows[i]),
                "track_id": int(one.track_ids[i]),
                "start_s": round(float(one.start_s[i]), 4),
                "rate": round(float(one.tempo[i]), 4),
                "found_track": int(one.exact_tracks[i, 0]),
                "found_s": round(float(one.exact_s[i, 0]), 4),
                "cosine": round(float(one.exact_scores[i, 0]), 5),
                **{name: bool(values[i]) for name, values in hits.items()},
                "matched_track": int(trials.known_track[i]),
                "matched_s": _number(trials.offset_s[i]),
                "confidence": round(float(sure[i]), 5),
                **{name: bool(values[i]) for name, values in verdicts.items()},
                "unknown_track": int(trials.unknown_track[i]),
            }
            for i in range(len(one.rows))
        )
    return out


def write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, object]]) -> bool:
    """Writes rows as .csv and .parquet; no file where there are none.

    Returns:
      Whether the Parquet file could be written: pyarrow comes with the extra `evaluate`.
    """
    if not rows:
        return True
    with open(path.with_suffix(".csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    try:
        from confp_jax.library.parquet import write_columns
    except ImportError:
        return False
    write_columns(
        path.with_suffix(".parquet"), {name: [row[name] for row in rows] for name in rows[0]}
    )
    return True


def query_id(queries: QuerySet, condition: str, row: int) -> str:
    """Names a query in the toolkit's files."""
    return f"{queries.name}-{condition}-{row}"


def write_pexeso(
    out: pathlib.Path, measured: Mapping[tuple[QuerySet, str], Outcomes], *, rate: float
) -> None:
    """annotations.csv (the truth) and matches.csv (what is accepted at a rate of false alarms)."""
    truth = []
    matches = []
    for (queries, condition), one in measured.items():
        for i, row in enumerate(one.rows):
            name = query_id(queries, condition, int(row))
            length_s = queries.length_s
            tempo = float(one.tempo[i])
            truth.append(
                _segment(one.track_ids[i], name, float(one.start_s[i]), length_s * tempo, length_s)
            )
            if one.trials.known_track[i] >= 0 and one.trials.known_rate[i] <= rate:
                begin_s = float(one.trials.offset_s[i])
                matches.append(
                    _segment(one.trials.known_track[i], name, begin_s, length_s, length_s)
                )
    for file, segments in (("annotations.csv", truth), ("matches.csv", matches)):
        with open(out / file, "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(PEXESO_FIELDS)
            writer.writerows(segments)


def read_pexeso(path: pathlib.Path) -> dict[str, list[Found]]:
    """Reads the matches of another program, by query_id, in the order of the file (best first).
    Their places are whole seconds.

    Raises:
      DatasetError: no such file, or a line lacks a field or holds no number.
    """
    found: dict[str, list[Found]] = {}
    number = 1
    try:
        with open(path, newline="") as file:
            for line in csv.DictReader(file):
                number += 1
                matches = found.setdefault(line["query_id"], [])
                reference_s = line.get("reference_begin")
                query_s = line.get("query_begin")
                offset_s = (
                    float(reference_s) - float(query_s) if reference_s and query_s else math.nan
                )
                matches.append(Found(line["reference_id"], offset_s, -float(len(matches))))
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path}, line {number}: {error}; it needs the columns {', '.join(PEXESO_FIELDS)}"
        ) from error
    return found


def _segment(
    reference: int, query: str, begin_s: float, length_s: float, query_s: float
) -> tuple[object, ...]:
    """Returns a line of the file; whole seconds enclose the segment."""
    begin = max(0, math.floor(begin_s))
    end = max(1, math.ceil(begin_s + length_s))
    return int(reference), query, begin, end, 0, math.ceil(query_s)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)
