"""What can be wrong with an encoder's files."""

from confp_jax.errors import UserError


class CheckpointError(UserError):
    """A folder or file that is no usable encoder; the message says why and what to do."""


class DamagedArraysError(CheckpointError):
    """An encoder's arrays, or its configuration, are not those that were saved."""
