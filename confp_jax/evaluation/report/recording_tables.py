"""The tables of real recordings: what is found, and how soon."""

from collections.abc import Sequence

from confp_jax.evaluation.measure.listening import ListeningRow
from confp_jax.evaluation.measure.recordings import RecordingRow
from confp_jax.evaluation.report.tables import Table, percent


def recording_table(rows: Sequence[RecordingRow]) -> Table:
    """Real recordings: the model, then other systems on the same files."""
    columns = (
        "system",
        "length, s",
        "pieces",
        "right",
        "within 1.5 s of the place",
        "right and accepted",
        "false alarms",
    )
    cells = []
    for row in rows:
        if row.trouble:
            cells.append((row.system, f"{row.length_s:g}", "0", row.trouble, "-", "-", "-"))
            continue
        accepted, alarms = (
            "-" if value is None else percent(value) for value in (row.accepted, row.false_alarms)
        )
        found = str(row.num_pieces), percent(row.right), percent(row.placed)
        cells.append((row.system, f"{row.length_s:g}", *found, accepted, alarms))
    caption = (
        "Recorded by a microphone: the first match, and what is accepted at 0.1 % false alarms; "
        "percent of all pieces"
    )
    return Table(caption, columns, tuple(cells))


def listening_table(rows: Sequence[ListeningRow]) -> Table:
    """Returns how many recordings are answered by the time that so much of them was heard."""
    columns = ("way", "heard, s", "recordings", "right", "wrong", "false alarms")
    cells = [
        (
            row.way,
            f"{row.after_s:g}",
            str(row.num_recordings),
            *map(percent, (row.right, row.wrong, row.false_alarms)),
        )
        for row in rows
    ]
    caption = (
        "Answered while listening, by how much was heard (clip: `confp listen` and the page); "
        "false alarms: only other music is searched; percent of the recordings"
    )
    return Table(caption, columns, tuple(cells))
