"""TLS contexts of both sides: the choice of a certificate by SNI, client certificates of POPs, reloaded files.

The public listener asks for no client certificate: a browser that has some would ask its user which to send. POPs have
a listener of their own, which requires one, speaks TLS 1.3 only and issues no session tickets, so that each connection
proves its identity anew.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from edgecache.config.certificates import Described, KeyPair, described, load_pair
from edgecache.wire.protocols import HTTP_1_1, PROTOCOLS

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all good
POP_URI: Final = re.compile(r"edgecache:pop:([A-Za-z0-9._-]{1,64})")
HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)
IP_LITERAL: Final = re.compile(r"[0-9.]+|[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*", re.ASCII)
LOOK_EVERY: Final = 5.0  # seconds between two looks at files


class ServerSide(ssl.SSLObject):
    """The server's end of a TLS session, and the name in the client's SNI; empty without one."""

    server_name = ""


class ServerTls:
    """The certificates of the listeners; the first is the default, without SNI or for a name in none of them."""

    def __init__(self, pairs: Sequence[Described], pop_ca: str = "") -> None:
        self.pairs = tuple(pairs)
        self._public = _Choice(self.pairs, public_context)
        self.identity = (tuple(one.fingerprint for one in pairs), _content(pop_ca))
        self._pops = _Choice(self.pairs, lambda: pop_context(pop_ca)) if pop_ca else None

    @property
    def public(self) -> ssl.SSLContext:
        """The context of the public listeners."""
        return self._public.context

    @property
    def pops(self) -> ssl.SSLContext:
        """The context of the listeners for POPs, which must have a certificate."""
        assert self._pops is not None, "checked with the settings"
        return self._pops.context

    @property
    def ends(self) -> float:
        """Epoch seconds at which the first of the certificates expires."""
        return min((one.ends for one in self.pairs), default=0.0)


class _Choice:
    """One context per certificate, chosen by the name in the SNI."""

    def __init__(self, pairs: Sequence[Described], make: Callable[[], ssl.SSLContext]) -> None:
        self._by_name: dict[str, ssl.SSLContext] = {}
        ends: dict[str, float] = {}
        contexts = []
        for one in pairs:
            context = make()
            load_pair(context, one.pair)
            contexts.append(context)
            for name in one.names:
                if one.ends > ends.get(name, -1.0):  # of two for one name, the one that expires later
                    ends[name], self._by_name[name] = one.ends, context
        self.context = contexts[0]
        self.context.sslobject_class = ServerSide
        self.context.sni_callback = self._choose

    def _choose(self, secured: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        if name and not IP_LITERAL.fullmatch(name):  # RFC 6066 §3: an IP address is not a server name
            if not HOST_NAME.fullmatch(name):
                return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            asked = secured.server_name = name.lower().rstrip(".")  # type: ignore[attr-defined]
            chosen = self._by_name.get(asked) or self._by_name.get("*." + asked.partition(".")[2])
            if chosen is not None:
                secured.context = chosen
        return None


def hush_names(next_hook: Callable[[sys.UnraisableHookArgs], object] = sys.unraisablehook) -> None:
    """Log no traceback for a client's SNI that is not ASCII: `ssl` refuses it, and it counts as a failed handshake."""

    def hook(args: sys.UnraisableHookArgs) -> None:
        if not (isinstance(args.exc_value, UnicodeDecodeError) and isinstance(args.object, bytes)):
            next_hook(args)

    sys.unraisablehook = hook


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(PROTOCOLS))
    return context


def public_context() -> ssl.SSLContext:
    """A context for any client, without a certificate yet.

    Session tickets are OpenSSL's: each worker has keys of its own (Python cannot set them), so a client that returns
    to another worker makes a full handshake.
    """
    return _server_context()


def pop_context(ca: str) -> ssl.SSLContext:
    """A context for POPs, whose certificates are signed by `ca`; without a certificate yet."""
    context = _server_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    return context


def pop_name(certificate: Mapping[str, Any] | None) -> bytes:
    """The POP in the URI `edgecache:pop:NAME` of a verified certificate; empty if there is none, or several."""
    names = (certificate or {}).get("subjectAltName", ())
    found = [match[1] for kind, value in names if kind == "URI" and (match := POP_URI.fullmatch(value))]
    return found[0].encode() if len(found) == 1 else b""


def client_context(*, ca: str = "", verify: bool = True, pair: KeyPair | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer towards a server, verified against the system's store or `ca`, with our own certificate.

    Raises OSError or ValueError.
    """
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([HTTP_1_1])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if pair is not None:
        described(pair)
        load_pair(context, pair)
    return context


class Files:
    """Files that may change at any time. A change counts once a second look finds them unchanged since the first."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.watch(paths)

    def watch(self, paths: Iterable[str]) -> None:
        """Watch these files from now on."""
        self._paths = tuple(path for path in paths if path)
        self._known = self._seen = self._versions()

    def distrust(self) -> None:
        """They may have changed before they were watched: that counts as a change."""
        self._known = []

    def changed(self) -> bool:
        """Whether they differ from those of the last change, and have not changed since the last look."""
        seen, self._seen = self._seen, self._versions()
        if self._seen == self._known or self._seen != seen:
            return False
        self._known = self._seen
        return True

    def _versions(self) -> list[tuple[int, int, int, int] | None]:
        return [version_of(path) for path in self._paths]


def _content(path: str) -> bytes:
    if not path:
        return b""
    with open(path, "rb") as file:
        return file.read()


def version_of(path: str) -> tuple[int, int, int, int] | None:
    """A value that differs after a file was written or replaced; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class ClientTls:
    """A context for connections to servers that follows its files; unreadable ones leave the last good context in use.

    `told` gets a line for the log, and whether it is good news, whenever the files have changed.
    """

    def __init__(
        self,
        *,
        ca: str = "",
        verify: bool = True,
        pair: KeyPair | None = None,
        told: Callable[[str, bool], None] = lambda line, good: None,
    ) -> None:
        self._make: Callable[[], ssl.SSLContext] = partial(client_context, ca=ca, verify=verify, pair=pair)
        self._files = Files((ca, pair.certificate, pair.key) if pair else (ca,))
        self._told = told
        self._next_look = time.monotonic() + LOOK_EVERY
        self.context = self._make()

    def look(self, now: float) -> None:
        """Reload files that have changed, every few seconds; `now` in monotonic seconds."""
        if now >= self._next_look:
            self._next_look = now + LOOK_EVERY
            if self._files.changed():
                self.renew()

    def renew(self) -> None:
        """Reload the files."""
        try:
            self.context = self._make()
        except (OSError, ValueError) as error:
            self._told(f"certificates for connections to servers stay the last good: {error}", False)
        else:
            self._told("certificates for connections to servers are renewed", True)
