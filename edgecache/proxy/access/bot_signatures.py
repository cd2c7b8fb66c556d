"""Web Bot Auth: requests signed by a bot (RFC 9421), verified with the keys in the directory of its operator.

https://datatracker.ietf.org/doc/draft-meunier-web-bot-auth-architecture/
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import http_sf
import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import HTTPMessageVerifier, HTTPSignatureKeyResolver, algorithms
from http_message_signatures.exceptions import HTTPMessageSignaturesException

from edgecache.proxy.access.admission import AccessRefused, Asked, Grant
from edgecache.proxy.access.json_web_tokens import unreachable
from edgecache.proxy.access.key_sets import KeysUnreachable, RemoteKeys
from edgecache.proxy.access.nonces import UsedNonces
from edgecache.semantics.message import Fields
from edgecache.semantics.signing.nonces import Nonce
from edgecache.semantics.signing.own_format import encoded
from edgecache.semantics.signing.token_keys import MOST_KEYS, Key, suitable
from edgecache.semantics.structured_fields import parse_dictionary

if TYPE_CHECKING:
    from edgecache.config.sites.model import Bots

TAG: Final = "web-bot-auth"
WELL_KNOWN: Final = "/.well-known/http-message-signatures-directory"
ALGORITHM: Final = "ed25519"
OF_SIGNATURES: Final = frozenset((b"signature", b"signature-input", b"signature-agent"))
LONGEST: Final = 4096  # bytes of these fields together
LONGEST_LIFE: Final = 86_400 + 300  # seconds of a signature with a nonce, which is remembered for so long
FIXED: Final = (
    "@authority",
    "@method",
    "@path",
    "@query",
    "@request-target",
    "@scheme",
    "@target-uri",
    "signature-agent",
)
WANTED: Final = (b"Accept-Signature", b'sig1=("@authority" "signature-agent");created;expires;keyid;tag="web-bot-auth"')
UNSIGNED: Final = Grant(fields=OF_SIGNATURES)  # an agent that nothing proves is not passed on either
Input = tuple[list[Any], dict[str, Any]]  # covered components, and parameters


class BotCheck:
    """Admits requests with a signature of a known bot, and those without one unless it is required."""

    order = 40
    reads = OF_SIGNATURES

    def __init__(self, written: Bots, open_directory: Callable[[str], RemoteKeys], nonces: UsedNonces) -> None:
        self._directories = {origin_of(url): open_directory(origin_of(url) + WELL_KNOWN) for url in written.directories}
        self._requires = written.require
        self._nonces = nonces

    def admit(self, asked: Asked) -> Grant | Awaitable[Grant]:
        """Admit a request by its signature."""
        fields = asked.request.fields
        if b"signature" not in fields and b"signature-input" not in fields:
            if self._requires:
                raise refusal("bot-unsigned")
            return UNSIGNED
        components, parameters = signature_input(fields)
        keyid = parameters.get("keyid")
        if not isinstance(keyid, str):
            raise refusal("bot-signature-malformed")
        directories = self._named(fields)
        due = [one for one in directories if one.is_due(keyid, ALGORITHM, asked.now)]
        if due and not any(suitable(one.keys, keyid, ALGORITHM) for one in directories):
            return self._after_fetch(due, directories, asked, components, parameters)
        return self._once(asked, directories, components, parameters)

    async def _after_fetch(
        self,
        due: Sequence[RemoteKeys],
        directories: Sequence[RemoteKeys],
        asked: Asked,
        components: list[Any],
        parameters: dict[str, Any],
    ) -> Grant:
        for one in due:
            try:
                await one.fetch()
            except KeysUnreachable:
                continue
        if not any(one.keys for one in directories):
            raise unreachable()
        grant = self._once(asked, directories, components, parameters)
        return grant if isinstance(grant, Grant) else await grant

    def _once(
        self, asked: Asked, directories: Sequence[RemoteKeys], components: list[Any], parameters: dict[str, Any]
    ) -> Grant | Awaitable[Grant]:
        """The grant for a good signature; one with a nonce is good for one request (RFC 9421 §7.2.2)."""
        grant, nonce = verified(asked, directories, components, parameters), parameters.get("nonce")
        if nonce is None:
            return grant
        if grant.until - parameters["created"] > LONGEST_LIFE:  # which was verified: it is no time to come
            raise refusal("bot-signature-lasting")
        mark = nonce_mark(parameters["keyid"], nonce)
        once = grant._replace(until=asked.now)  # known heads are verified again, and refused
        if mark in asked.nonces:  # another rule of the same request has used it
            return once
        asked.nonces.add(mark)
        state = self._nonces.use(mark, parameters["created"], grant.until)
        return unless_used(once, state) if isinstance(state, Nonce) else _after(once, state)

    def _named(self, fields: Fields) -> list[RemoteKeys]:
        """The directories that may have the key: of the agent that the request names, or all."""
        value = fields.get(b"signature-agent")
        if value is None:
            return list(self._directories.values())
        named = [self._directories.get(origin_of(agent)) for agent in agents_in(value)]
        found = [one for one in named if one is not None]
        if not found:
            raise refusal("bot-unknown")
        return found


async def _after(grant: Grant, state: Awaitable[Nonce]) -> Grant:
    return unless_used(grant, await state)


def unless_used(grant: Grant, state: Nonce) -> Grant:
    """`grant`, if the nonce of its signature is new."""
    if state is Nonce.USED:
        raise refusal("bot-signature-replayed")
    if state is Nonce.UNKNOWN:
        raise AccessRefused(503, "bot-nonce-unknown", "it cannot be told whether this signature was used before")
    return grant


def nonce_mark(keyid: str, nonce: Any) -> bytes:
    """What is remembered of a nonce: it is unique for a key (RFC 9421 §2.3)."""
    return hashlib.blake2b(repr((keyid, nonce)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def signature_input(fields: Fields) -> Input:
    """What the one signature for this purpose covers, and its parameters."""
    if sum(len(fields.get(name) or b"") for name in OF_SIGNATURES) > LONGEST:
        raise refusal("bot-signature-malformed")
    try:
        parsed: Any = http_sf.parse(fields.get(b"signature-input") or b"", tltype="dictionary")
        (found,) = [member for member in parsed.values() if member[1].get("tag") == TAG]
        components = [item[0] for item in found[0]]
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        raise refusal("bot-signature-malformed") from None
    return components, dict(found[1])


def agents_in(value: bytes) -> list[str]:
    """The origins that `Signature-Agent` names: a dictionary, or, in older drafts, a string."""
    members = parse_dictionary(value)
    if members is not None:
        return [one for one in members.values() if isinstance(one, str)]
    return [value.strip().strip(b'"').decode("latin-1")]


def origin_of(url: str) -> str:
    """Scheme and authority of a URL, in lower case."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}".lower()


class _Keys(HTTPSignatureKeyResolver):
    """The keys of some directories."""

    def __init__(self, directories: Sequence[RemoteKeys]) -> None:
        self._directories = directories

    def resolve_public_key(self, key_id: str) -> Any:
        """The key with this thumbprint; None if there is none."""
        for one in self._directories:
            for key in suitable(one.keys, key_id, ALGORITHM):
                return key.key
        return None


def verified(
    asked: Asked, directories: Sequence[RemoteKeys], components: list[Any], parameters: dict[str, Any]
) -> Grant:
    """The grant for a signature that is good, until it expires."""
    request, expires = asked.request, parameters.get("expires")
    if type(expires) is not int or asked.now >= expires:
        raise refusal("bot-signature-expired")
    if "@authority" not in components and "@target-uri" not in components:
        raise refusal("bot-signature-malformed")
    if b"signature-agent" in request.fields and "signature-agent" not in components:
        raise refusal("bot-signature-malformed")
    if not any(suitable(one.keys, parameters["keyid"], ALGORITHM) for one in directories):
        raise refusal("bot-key")
    url = request.scheme + b"://" + request.host + request.received_target
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.fields.index.items()}
    message = SimpleNamespace(method=request.method.decode("latin-1"), url=url.decode("latin-1"), headers=headers)
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=_Keys(directories))
    try:
        verifier.verify(message, expect_tag=TAG)
    except (HTTPMessageSignaturesException, ValueError, TypeError):
        raise refusal("bot-signature-wrong") from None
    generations = [(one, one.generation) for one in directories]
    is_fixed = all(component in FIXED for component in components)  # what covers other fields is verified each time
    lasts = inf if is_fixed else -inf
    return Grant(
        float(expires),
        lasts,
        OF_SIGNATURES,
        still=lambda: all(one.generation == generation for one, generation in generations),
    )


def refusal(reason: str) -> AccessRefused:
    """The response to a bot that is refused, with what it would have to sign (RFC 9421 §5)."""
    return AccessRefused(403, reason, "this is for bots with a valid signature", WANTED)


def directory_keys(content: bytes) -> list[Key]:
    """The Ed25519 keys in a directory, by their thumbprints (RFC 7638); ValueError if there are none."""
    written = orjson.loads(content)
    listed = written.get("keys") if isinstance(written, dict) else None
    found: list[Key] = []
    for one in listed[:MOST_KEYS] if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("crv") == "Ed25519" and isinstance(x := one.get("x"), str):
            raw = _decoded(x)
            members = f'{{"crv":"Ed25519","kty":"OKP","x":"{encoded(raw).decode()}"}}'
            thumbprint = encoded(hashlib.sha256(members.encode()).digest()).decode()
            found.append(Key(thumbprint, Ed25519PublicKey.from_public_bytes(raw), frozenset((ALGORITHM,))))
    if not found:
        raise ValueError("has no usable key")
    return found


def _decoded(text: str) -> bytes:
    from base64 import urlsafe_b64decode

    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
