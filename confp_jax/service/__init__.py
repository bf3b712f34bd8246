"""The HTTP service and its page: `confp serve`."""

from importlib.metadata import version

VERSION = version("confp-jax")
