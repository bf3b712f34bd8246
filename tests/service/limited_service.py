"""A real service with limits so small that a test can reach them: `python limited_service.py
DATABASE`; prints its address.
"""

import pathlib
import sys

from running_service import MUSIC

from confp_jax.service import start
from confp_jax.service.settings import Settings

SETTINGS = Settings(
    origins=("https://pages.example",),
    body_timeout_s=1.0,
    request_timeout_s=0.3,
    send_timeout_s=1.0,
    clip_timeout_s=6.0,
    shared_folders=(MUSIC,),
    max_listeners=1,
    max_connections=4,
)

if __name__ == "__main__":
    start.run(
        pathlib.Path(sys.argv[1]),
        SETTINGS,
        model=None,
        false_alarm_rate=0.001,
        host="127.0.0.1",
        port=0,
        started=lambda address: print(f'{{"address": "{address}"}}', flush=True),
    )
