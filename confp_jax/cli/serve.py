"""`confp serve`: the database as an HTTP service with a page."""

import argparse
import pathlib
import sys

from confp_jax.cli.output import Commands, milvus_address, print_json_line, rate, say


def register(commands: Commands) -> None:
    """Declares the command."""
    serve = commands.add(
        "serve",
        _serve,
        "serve a database by HTTP, with a page for the microphone (extra `serve`)",
        model=True,
        examples="""\
  confp serve music.db                   then open http://127.0.0.1:8000
  confp serve music.db --token-file token.txt        tracks can be added and removed with this token
  confp serve music.db --host 0.0.0.0 --share-audio MUSIC   for others, who may also play the tracks
                                         whose files lie in MUSIC
  curl --data-binary @clip.wav http://127.0.0.1:8000/v1/identify""",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on (127.0.0.1: this machine alone)",
    )
    serve.add_argument("--port", type=int, default=8000, help="the port; 0 is any free one (8000)")
    _add_access(serve)
    _add_limits(serve)


def _add_access(serve: argparse.ArgumentParser) -> None:
    """Declares what is served, and to whom."""
    serve.add_argument(
        "--token-file",
        type=pathlib.Path,
        metavar="FILE",
        help="a file with the token that allows adding and removing tracks",
    )
    serve.add_argument(
        "--index",
        type=milvus_address,
        metavar="URI",
        help="read the fingerprints from Milvus (milvus://HOST:PORT); the database then needs "
        "only its catalogue",
    )
    serve.add_argument(
        "--share-audio",
        action="append",
        nargs="?",
        const=None,
        default=[],
        type=pathlib.Path,
        metavar="FOLDER",
        help="let clients play the tracks whose files lie in this folder (may be repeated)",
    )
    serve.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="a site whose pages may use the service (CORS)",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name that the service answers to",
    )
    serve.add_argument(
        "--browser-runtime",
        type=pathlib.Path,
        metavar="FOLDER",
        help="the folder dist of the npm package onnxruntime-web 1.30: the page's /?local then "
        "computes fingerprints in the browser, and sends no audio",
    )
    serve.add_argument(
        "--root-path",
        default="",
        metavar="PATH",
        help="the path that a proxy gives the service, such as /music (X-Forwarded-Prefix if "
        "the proxy sends it)",
    )


def _add_limits(serve: argparse.ArgumentParser) -> None:
    """Declares how much a client may send, and how sure an answer is."""
    serve.add_argument(
        "--max-body-mib", type=int, default=32, metavar="N", help="largest request in MiB (32)"
    )
    serve.add_argument(
        "--max-audio-s",
        type=float,
        default=900.0,
        metavar="S",
        help="longest recording in seconds (900)",
    )
    serve.add_argument(
        "--max-waiting",
        type=int,
        default=64,
        metavar="N",
        help="requests that may wait; the next one gets 429 (64)",
    )
    serve.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="processes that serve the database behind the one port (1)",
    )
    serve.add_argument(
        "--rate",
        type=float,
        default=0.0,
        metavar="N",
        help="requests a minute that one client may send to a worker; the next one gets 429 (any)",
    )
    serve.add_argument(
        "--false-alarms",
        type=rate,
        default=0.001,
        metavar="SHARE",
        help="proportion of unknown queries that may be answered (0.001)",
    )


def _serve(args: argparse.Namespace) -> int:
    from confp_jax.locks import HAS_FLOCK

    if not HAS_FLOCK:  # decoding of strangers' files is bounded by POSIX alone
        say("error: confp serve needs Linux or macOS; on Windows it runs in WSL", file=sys.stderr)
        return 1
    from confp_jax.service import start

    if None in args.share_audio:
        print("--share-audio names no folder: nothing is shared by it", file=sys.stderr)
    settings = start.settings_for(
        host=args.host,
        token_file=args.token_file,
        index=args.index or "",
        shared_folders=[folder for folder in args.share_audio if folder is not None],
        root_path=args.root_path,
        browser_runtime=args.browser_runtime,
        origins=args.allow_origin,
        hosts=args.allow_host,
        max_body_mib=args.max_body_mib,
        max_audio_s=args.max_audio_s,
        max_waiting=args.max_waiting,
        workers=args.workers,
        requests_per_minute=args.rate,
    )

    def started(address: str) -> None:
        if args.json:
            print_json_line({"address": address})
        else:
            say(
                f"serving {args.db} at {address} (loading the model; {address}/readyz "
                "answers 200 when it is ready)",
                file=sys.stderr,
            )

    start.run(
        args.db,
        settings,
        model=args.model,
        false_alarm_rate=args.false_alarms,
        host=args.host,
        port=args.port,
        started=started,
    )
    return 0
