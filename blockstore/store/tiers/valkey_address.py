"""Where a Valkey or Redis tier is and how to log in: `valkey://[USER@]HOST[:PORT][,HOST[:PORT]...][/DB][?OPTIONS]`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from blockstore.errors import InputError

PASSWORD_VARIABLE: Final = "BLOCKSTORE_SPILL_PASSWORD"
PORT: Final = 6379
SCHEMES: Final = {"valkey": False, "redis": False, "valkeys": True, "rediss": True}
"""And whether TLS is spoken."""
_OPTIONS: Final = ("password-file", "ca-file", "cert-file", "key-file")


@dataclass(frozen=True)
class Address:
    """A parsed URL. `password` is read when the URL is; it stands in no message."""

    hosts: tuple[tuple[str, int], ...]
    tls: bool
    database: int
    user: str | None
    password: str | None
    ca_file: str | None
    cert_file: str | None
    key_file: str | None

    def __str__(self) -> str:
        scheme = "valkeys" if self.tls else "valkey"
        return f"{scheme}://{','.join(join(host, port) for host, port in self.hosts)}"

    def __repr__(self) -> str:
        return f"Address({self})"


def join(host: str, port: int) -> str:
    """HOST:PORT, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse(url: str) -> Address:
    """Raises InputError for a URL that says nothing usable, and for a password or certificate that cannot be read.

    The password comes from the file that `?password-file=` names, else from BLOCKSTORE_SPILL_PASSWORD. A daemon that
    the supervisor starts again has the environment of the `mount` command, so the variable holds as long as the mount;
    a file is read again, and may have changed.
    """
    # No message shows the URL: what is wrong with it may be that a password stands in it.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InputError("the spill URL cannot be read; write an IPv6 address as [ADDRESS]") from None
    if parts.scheme not in SCHEMES:
        raise InputError(f"the spill URL must begin with one of {', '.join(f'{name}://' for name in SCHEMES)}")
    if parts.fragment:
        raise InputError("the spill URL must not have a '#' in it; take it away")
    login, _, hosts = parts.netloc.rpartition("@")
    if ":" in login or "@" in parts.path:  # the second when the password has a slash in it
        raise InputError(
            f"the spill URL holds a password, which everybody sees in the list of processes; "
            f"put it into {PASSWORD_VARIABLE} or into a file named by ?password-file=PATH"
        )
    options = _options(parts, SCHEMES[parts.scheme])
    return Address(
        hosts=tuple(_host(text) for text in hosts.split(",")),
        tls=SCHEMES[parts.scheme],
        database=_database(parts.path),
        user=unquote(login) or None,
        password=_password(options.get("password-file")),
        ca_file=options.get("ca-file"),
        cert_file=options.get("cert-file"),
        key_file=options.get("key-file"),
    )


def _options(parts: SplitResult, tls: bool) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True):
        if name not in _OPTIONS:
            raise InputError(f"the spill URL has an unknown option '{name}'; there are {', '.join(_OPTIONS)}")
        if name in options:
            raise InputError(f"the spill URL names {name} twice; name it once")
        if name != "password-file" and not tls:
            raise InputError(f"the spill URL names {name} without TLS; begin it with valkeys:// or leave {name} away")
        if not os.access(value, os.R_OK) or Path(value).is_dir():
            raise InputError(f"the {name} of the spill URL, '{value}', cannot be read; name a file that can")
        options[name] = value
    if "key-file" in options and "cert-file" not in options:
        raise InputError("the spill URL names a key-file without a cert-file; name both")
    if tls:
        _try_certificates(options)
    return options


def _try_certificates(options: dict[str, str]) -> None:
    """The client would say so too, but as if the server were to blame, and would ask a terminal for a passphrase."""
    import ssl  # megabytes, for those who use it only

    try:
        context = ssl.create_default_context(cafile=options.get("ca-file"))
        if "cert-file" in options:
            context.load_cert_chain(options["cert-file"], options.get("key-file"), password="")
    except OSError as error:
        raise InputError(
            f"the certificates of the spill URL cannot be used: {error}; "
            f"give PEM files that belong together, and a key without a passphrase"
        ) from None


def _host(text: str) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise InputError(f"the host '{text}' of the spill URL is wrong; write [ADDRESS]:PORT")
        port = port[1:] if port else str(PORT)
    else:
        host, colon, port = text.partition(":")
        port = port if colon else str(PORT)
    if not host:
        raise InputError("a host of the spill URL is empty; write valkey://HOST:PORT,HOST:PORT")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"the port of '{text}' in the spill URL is no number from 1 to 65535")
    return host, int(port)


def _database(path: str) -> int:
    text = path.removeprefix("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise InputError(f"the database '{text}' of the spill URL is no number")
    return int(text)


def _password(file: str | None) -> str | None:
    if file is None:
        return os.environ.get(PASSWORD_VARIABLE) or None
    try:
        password = Path(file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise InputError(f"the password-file '{file}' of the spill URL cannot be read as text") from None
    if not password:
        raise InputError(f"the password-file '{file}' of the spill URL is empty")
    return password
