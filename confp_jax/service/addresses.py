"""Names of hosts, origins and paths, as headers and options write them."""

import re
from urllib.parse import urlsplit

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_USUAL_PORTS = {"http": 80, "https": 443}


def host_name(address: str) -> str:
    """Returns the name in `name`, `name:port` or `[IPv6]:port`, in small letters; "" for none."""
    try:
        return urlsplit("//" + address.strip()).hostname or ""
    except ValueError:
        return ""


def origin_host(origin: str) -> str:
    """Returns the host name of an Origin header; "" for none ("null")."""
    scheme, separator, rest = origin.partition("://")
    return host_name(rest) if separator and scheme.isalnum() else ""


def plain_origin(text: str) -> str:
    """Returns an origin as browsers write it: small letters, no slash, no usual port.

    Raises:
      ValueError: it is none.
    """
    if text == "*":
        return text
    parts = urlsplit(text.strip())
    port = parts.port  # raises ValueError itself
    name = parts.hostname
    if not name or not parts.scheme or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{text!r} is no origin")
    if ":" in name:
        name = f"[{name}]"
    usual = port is None or port == _USUAL_PORTS.get(parts.scheme)
    return f"{parts.scheme}://{name}" + ("" if usual else f":{port}")


def plain_path(text: str) -> str:
    """Returns a path as a prefix: one slash in front, none behind; "" for the root.

    Raises:
      ValueError: it is none.
    """
    path = text.strip().strip("/")
    if not path:
        return ""
    if len(path) > 200 or not _PATH.fullmatch("/" + path) or ".." in path.split("/"):
        raise ValueError(f"{text!r} is no path of a site")
    return "/" + path
