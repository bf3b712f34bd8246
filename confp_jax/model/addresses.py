"""Where models lie: on this machine, or in a bucket."""

import os


def is_remote(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder is an address (gs://, s3://) instead of a place on this machine."""
    return "://" in str(folder)
