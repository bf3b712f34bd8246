"""What to measure: a model on query sets against an index of a prepared dataset's clean clips, and
other systems beside it.

    python -m confp_jax.evaluation.benchmark --config=configs/benchmark.py:paper \\
        --config.checkpoint=edge \\
        --config.index=prepared/fma --config.queries=prepared/queries --out=results

`:ours` searches all splits and fills the index up with synthetic rows; `:quick` is a look at the
same in a few minutes. Any other program takes part as `command`, without a line of code:

    --config.command.name=olaf --config.command.index='olaf store {files}' \\
        --config.command.query='olaf query {query}' \\
    --config.command.answer='^\\d+, (?P<track>[^,]+), (?P<offset>[\\d.]+), (?P<score>\\d+)'
"""

from ml_collections import ConfigDict

_QUICK_CONDITIONS = (
    "clean", "shift_40", "reverb", "background_10db", "background_5db", "coloured_5db",
    "stretch_70", "stretch_130",
)  # fmt: skip
_ANSWER = r"^(?P<track>[^,\t]+)[,\t]\s*(?P<offset>[-+.\deE]+)(?:[,\t]\s*(?P<score>[-+.\deE]+))?"


def get_config(variant: str = "paper") -> ConfigDict:
    """All index at 300 ms. `paper`: the test split alone is searched, as the paper does (11,263
    clips of FMA-large). `ours`: all splits, so that queries meet what the model was trained on.
    `quick`: few queries, the test split.
    """
    if variant not in ("paper", "ours", "quick"):
        raise ValueError(f"{variant!r} is no benchmark; known: paper, ours, quick")
    quick = variant == "quick"
    return ConfigDict(
        {
            "checkpoint": "edge2",  # a shipped model or a checkpoint folder
            "compare": "",  # another one, to be tested against it on the same queries
            "index": "",  # a dataset made by data_prep.make_train: its clean clips
            "index_splits": ("training", "validation", "test") if variant == "ours" else ("test",),
            # sets made by data_prep.make_queries, or a folder of them, with commas between
            "queries": "",
            "conditions": _QUICK_CONDITIONS if quick else (),  # empty: all of each set's
            "most_queries": 88 if quick else 0,  # of each condition, evenly; 0: all
            "top_k": 5,
            "systems": ("ours", "audfprint", "chromaprint"),
            "system_conditions": ("clean", "background_10db") if quick else (),
            "system_queries": 44 if quick else 0,
            "command": {
                "name": "",
                "index": "",
                "query": "",
                "answer": _ANSWER,
            },  # systems/external.py: CommandConfig
            # NAME=FILE.csv, what another program matched to the files of wav_dir (Pexeso's format);
            # with commas
            "matches": "",
            # a folder of real recordings with a recordings.csv (evaluation/measure/recordings.py)
            "recordings": "",
            "index_limit_s": 7200.0,  # of a system
            "query_limit_s": 20.0,  # of a system, for each query on average
            "wav_dir": "",  # a folder that keeps the WAV files that the systems are given
            "cache": "",  # what was measured, by content; empty: OUT/cache
            "num_failures": 6 if quick else 12,  # shown, worst first
            "shift_tracks": 10
            if quick
            else 50,  # of the index's last split, for Figure 4; 0: no figure
            # fewer dimensions and bits: bytes an hour of audio against hits
            "compression": not quick,
            "distractors": (250_000, 1_000_000, 2_000_000)
            if variant == "ours"
            else (),  # synthetic, to fill the index up to
            "num_bootstraps": 2000,  # over tracks: excerpts of one track are no independent trials
            "seed": 0,
        }
    )
