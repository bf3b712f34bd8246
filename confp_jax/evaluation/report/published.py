"""Numbers that others published, to stand beside ours: the paper's Tables 2 to 4 (top-1, in
brackets top-5; percent).
"""

import dataclasses

MODELS = ("small", "medium", "large")
# Condition: (top-1, top-5) of each of MODELS. FMA-large test, 11,263 clips, 3 s, mean of five runs.
PAPER: dict[str, tuple[tuple[float, float], ...]] = {
    "shift_10": ((98.7, 100.0), (98.6, 100.0), (98.6, 100.0)),
    "shift_20": ((98.8, 100.0), (98.6, 100.0), (98.7, 100.0)),
    "shift_30": ((98.5, 100.0), (98.4, 100.0), (98.4, 100.0)),
    "shift_40": ((98.4, 100.0), (98.3, 100.0), (98.2, 100.0)),
    "reverb": ((88.8, 91.4), (92.2, 94.8), (96.2, 98.2)),
    "background_5db": ((83.4, 86.2), (87.8, 90.6), (93.9, 96.2)),
    "background_10db": ((92.9, 95.0), (95.0, 97.1), (97.1, 99.0)),
    "background_15db": ((96.0, 97.9), (96.8, 98.8), (97.8, 99.6)),
    "coloured_5db": ((77.8, 81.0), (91.8, 94.4), (95.6, 97.8)),
    "coloured_10db": ((88.7, 91.3), (95.6, 97.8), (97.3, 99.2)),
    "coloured_15db": ((93.5, 95.8), (97.0, 99.0), (97.9, 99.7)),
}
TABLE_2 = ("shift_10", "shift_20", "shift_30", "shift_40", "reverb")
TABLE_4 = tuple(
    f"{kind}_{snr_db}db" for kind in ("background", "coloured") for snr_db in (5, 10, 15)
)
TABLE_3_CONDITIONS = ("background_5db", "background_10db", "background_15db", "clean")


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """A row of Table 3: top-1 in percent as printed; "" where nothing is given."""

    system: str
    length_s: float
    fma_subset: str
    at_5db: str = ""
    at_10db: str = ""
    at_15db: str = ""
    no_noise: str = ""
    remark: str = ""


TABLE_3 = (
    PublishedRow(
        "conformer (the paper's large)",
        3,
        "large",
        "93.9",
        "97.1",
        "97.8",
        "98.8",
        "up to 120 ms shift",
    ),
    PublishedRow("NAFP", 5, "large", "", "≥ 92", "≥ 92", "≥ 92", "0-10 dB and reverb"),
    PublishedRow(
        "Now Playing", 5, "large", "", "≥ 79.8", "≥ 79.8", "≥ 79.8", "d 64, as run by NAFP"
    ),
    PublishedRow("Dejavu", 6, "small", no_noise="69.6"),
    PublishedRow("audfprint", 3, "medium", "88.5", "91.4", "93.8"),
    PublishedRow("audfprint", 5, "medium", "89.4", "91.5", "94.2"),
    PublishedRow("NAFP", 3, "medium", "88.5", "91.4", "93.8"),
    PublishedRow("attention-based", 3, "medium", "92.9", "94.6", "95.5"),
    PublishedRow("attention-based", 5, "medium", "93.9", "94.7", "96.8"),
    PublishedRow(
        "FE+HT", 3, "medium", "90.8", "95.5", "96.3", remark="up to 50 ms shift, 16-fold quantised"
    ),
    PublishedRow("GraFPrint", 1, "large", "61.8", "71.6", "83.8"),
    PublishedRow("GraFPrint", 3, "medium", "98.3", "99.3", "99.6"),
    PublishedRow(
        "attention-based", 3, "medium", "88.4", "92.6", "95.2", remark="as run by GraFPrint"
    ),
)
