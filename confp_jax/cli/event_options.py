"""`--webhook` and `--mqtt`: the options of the commands that send events to other programs."""

import argparse
import pathlib
from typing import Any


def add_event_options(command: argparse.ArgumentParser) -> None:
    """Declares the options."""
    command.add_argument(
        "--webhook",
        metavar="URL",
        default="",
        help="send each event to this address by POST, as JSON",
    )
    command.add_argument(
        "--webhook-secret-file",
        type=pathlib.Path,
        metavar="FILE",
        help="sign what is sent to the webhook with the secret in this file (HMAC-SHA256)",
    )
    command.add_argument(
        "--mqtt",
        metavar="HOST",
        default="",
        help="publish what plays to this broker, for Home Assistant: HOST, HOST:PORT, "
        "mqtt://USER@HOST (password: $CONFP_MQTT_PASSWORD; extra `mqtt`)",
    )


def open_sinks(args: argparse.Namespace, config: Any = None) -> Any:
    """Returns the sinks that the options name, or else the file of stations."""
    from confp_jax.events.sinks import Sinks

    return Sinks(
        webhook=args.webhook or getattr(config, "webhook", ""),
        secret_file=args.webhook_secret_file or getattr(config, "webhook_secret_file", None),
        mqtt=args.mqtt or getattr(config, "mqtt", ""),
    )
