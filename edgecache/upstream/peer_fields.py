"""What goes between a POP and its parent beside the request itself: internal fields, and what they mean. Pure.

On the request (signed, see `pop_auth`; or on a connection that TLS has authenticated):

    Edgecache-Client: 198.51.100.7   the client, as the POP that it talks to sees it; absent if that is not known
    Edgecache-Scheme: https          how the client asked: part of the cache key
    Edgecache-Geo-*                  where the client is
    Edgecache-Claim-*                what a proxy that the child trusts says of that, under the proxy's own names
    Edgecache-Require: eu=…,us=…     what the child knows of the invalidation logs
    Edgecache-Region: eu,fog         the regions that the request has come through, whose leases it may hold
    Edgecache-Residency: EU          the jurisdiction that the answer must not leave
    Edgecache-Canary: 1              the client is in the share of the canary of its site

On the answer:

    Edgecache-Seen: eu=…,us=…        what was known of the logs when the origin was asked, or later if it still holds

From anybody else, such fields are dropped in either spelling; clients never see those of answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgecache.invalidation.version_vector import NOTHING, Vector, is_region
from edgecache.invalidation.write_effects import TOKEN
from edgecache.semantics.cache_tags import between_pops
from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.client_claims import is_sent_to_parent, without_untrusted
from edgecache.semantics.forwarding import CHAINS, INTERNAL_PREFIX, SCHEMES, under_scheme
from edgecache.semantics.geo import GEO_FIELDS
from edgecache.semantics.message import Child, FieldLine, Fields, Request, Response

CLIENT: Final = b"edgecache-client"
SCHEME: Final = b"edgecache-scheme"
CLAIM: Final = b"edgecache-claim-"
REGION: Final = b"edgecache-region"
REQUIRE: Final = b"edgecache-require"
RESIDENCY: Final = b"edgecache-residency"
CANARY: Final = b"edgecache-canary"
SEEN: Final = b"edgecache-seen"
UNSENT: Final = frozenset(  # details of an error's Cache-Status: the origin has not been asked
    (b"connect", b"connect-timeout", b"dns", b"tls", b"origin-queue-full", b"origin-queue-timeout", b"no-origin")
)
MARKS: Final = (b"\nedgecache-", b"\nedgecache_")


@dataclass(frozen=True, slots=True)
class VersionedChild(Child):
    """A child with the version vector that its request requires."""

    required: Vector = NOTHING


def required_by(child: Child) -> Vector:
    """The log positions that a response to `child` must reflect."""
    return child.required if isinstance(child, VersionedChild) else NOTHING


def has_internal(raw: bytes) -> bool:
    """Whether lines of fields, with a line before them, may hold an internal field."""
    lower = raw.lower()
    return MARKS[0] in lower or MARKS[1] in lower


def names_internal(fields: Fields) -> bool:
    """Whether an internal field is among `fields`."""
    names = b"\n" + b"\n".join(fields.names())
    return MARKS[0] in names or MARKS[1] in names


def without_internal(fields: Fields) -> Fields:
    """`fields` less every internal one; what a client may say too stays."""
    return fields.without([name for name in fields.names() if is_internal(name) and name != TOKEN])


def is_internal(name: bytes) -> bool:
    """Whether `name`, in lower case, is between POPs only."""
    return name.replace(b"_", b"-").startswith(INTERNAL_PREFIX)


def internal_lines(request: Request, client: str, known: Vector, region: str) -> list[FieldLine]:
    """What a child tells its parent of `request`, but for the client's place and the signature."""
    regions = (*(request.child.regions if request.child is not None else ()), region)
    lines: list[FieldLine] = [(b"Edgecache-Scheme", request.scheme), (b"Edgecache-Region", ",".join(regions).encode())]
    if client:
        lines.append((b"Edgecache-Client", client.encode()))
    if len(known):
        lines.append((b"Edgecache-Require", known.encode()))
    if request.jurisdiction:
        lines.append((b"Edgecache-Residency", request.jurisdiction.encode()))
    if request.policy is not None and request.policy.is_canary:
        lines.append((b"Edgecache-Canary", b"1"))
    if request.group:
        lines += [
            (b"Edgecache-Claim-" + name, value) for name, value in request.fields if is_sent_to_parent(name.lower())
        ]
    return lines


def from_child(request: Request, name: bytes) -> Request | None:
    """`request` as the authenticated POP `name` means it; None if what it says cannot be understood."""
    fields = request.fields
    scheme = fields.get(SCHEME) or request.scheme
    client = fields.get(CLIENT)
    address = parsed_address(client.decode("latin-1")) if client is not None else None
    jurisdiction = (fields.get(RESIDENCY) or b"").decode("latin-1")
    try:
        required = Vector.decode(fields.get(REQUIRE) or b"")
    except ValueError:
        return None
    if scheme not in SCHEMES or (client is not None and address is None):
        return None
    regions = tuple((fields.get(REGION) or b"").decode("latin-1").split(","))
    if not all(is_region(name) for name in (jurisdiction, *regions) if name):
        return None
    address_text = "" if address is None else str(address)
    canary = fields.get(CANARY) == b"1"
    child = VersionedChild(name, address_text, jurisdiction, regions, required=required, is_canary=canary)
    place = tuple(line for line in fields if line[0].lower() in GEO_FIELDS)
    claims = [(name[len(CLAIM) :], value) for name, value in fields if name.lower().startswith(CLAIM)]
    own = without_internal(fields).without((*CHAINS, *request.claims)).plus(*place, *claims)
    asked = under_scheme(request, scheme)
    named = tuple([name.lower() for name, _ in claims])
    heard = asked._replace(fields=own, place=place, child=child, jurisdiction=jurisdiction, claims=named)
    return without_untrusted(heard, believed=True)


def answer_lines(seen: Vector, tags: tuple[bytes, ...]) -> bytes:
    """What a parent tells its child with an answer, as field lines."""
    lines = b"Edgecache-Seen: %b\r\n" % seen.encode()
    return lines + b"Edgecache-Tags: %b\r\n" % between_pops(tags) if tags else lines


def seen_of(response: Response) -> Vector | None:
    """What was known of the logs when the origin was asked, as a parent says; None if it says nothing readable."""
    value = response.fields.get(SEEN)
    if value is None:
        return None
    try:
        return Vector.decode(value)
    except ValueError:
        return None


def has_not_asked(response: Response) -> bool:
    """Whether a parent's error says that no origin got the request, so that another way may be tried at no cost."""
    last = (response.fields.get(b"cache-status") or b"").rpartition(b",")[2]
    details = [part.strip(b" \t") for part in last.split(b";")[1:]]
    return any(part.startswith(b"detail=") and part[7:] in UNSENT for part in details)


def passed_through(response: Response) -> bool:
    """Whether it was a POP that answered, and not something in front of it: it says what its cache did."""
    return b"cache-status" in response.fields
