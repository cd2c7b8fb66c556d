"""Claims: request fields that only a trusted proxy may set, about the client's identity, place and target.

    addresses    of the client (`X-Real-IP`), and switches of what is behind a proxy
    identities   that a TLS front or a sign-on proxy vouches for (`X-SSL-Client-Verify`, `Remote-User`, RFC 9440)
    places       that a CDN in front has found (`CF-IPCountry`)
    overrides    of the target, the method, the host or the scheme (`X-Original-URL`, `X-HTTP-Method-Override`)

The first three are dropped unless a trusted proxy sent them. Then an identity makes the request uncacheable; a place,
or the statement that there is no identity, is part of the cache key. Overrides, which any client may send (RFC 9110
§5.1), are dropped from cacheable requests, because they are not in the key. Elsewhere they are forwarded, and the
request counts as a write to the overriding target too. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import Final

from edgecache.semantics.message import Fields, Request

ADDRESSES: Final = frozenset(
    b"true-client-ip client-ip x-client-ip x-cluster-client-ip x-real-ip x-remote-ip x-remote-addr x-originating-ip "
    b"x-proxyuser-ip cf-connecting-ip cf-connecting-ipv6 cf-pseudo-ipv4 fastly-client-ip x-azure-clientip "
    b"x-azure-socketip fly-client-ip akamai-client-ip ali-cdn-real-ip cdn-src-ip x-cdn-src-ip x-true-client-ip "
    b"x-nf-client-connection-ip x-appengine-user-ip wl-proxy-client-ip proxy-client-ip http-client-ip "
    b"http-x-forwarded-for forwarded-for x-vercel-forwarded-for cloudfront-viewer-address "
    b"cloudfront-viewer-ja3-fingerprint cloudfront-viewer-ja4-fingerprint x-sendfile-type".split()  # CVE-2025-61780
)
IDENTITIES: Final = frozenset(
    b"eppn sm-user sm-userdn sm-universalid sm-serversessionid sm-authtype oam-remote-user proxy-user x-proxy-user "
    b"proxy-remote-user x-anonymous-consumer x-client-dn x-client-subject x-client-issuer x-client-serial x-client-san "
    b"x-client-cn x-client-verify x-client-fingerprint x-auth-username x-auth-userid x-auth-subject x-auth-roles "
    b"x-auth-groups x-user-dn x-subject-dn x-issuer-dn x-arr-clientcert x-amzn-request-context x-amzn-lambda-context "
    b"x-forwarded-access-token x-forwarded-id-token x-forwarded-preferred-username".split()
)
IDENTITY_FAMILIES: Final = tuple(
    b"ssl- x-ssl- x-client-cert x-client-ssl- x-clientcert client-cert x-tls-client- x-mtls- x-amzn-mtls- "
    b"x-forwarded-client-cert x-forwarded-tls x-forwarded-user x-forwarded-email x-forwarded-group x-remote-user "
    b"x-remote-group x-remote-extra- remote- x-auth-request- x-amzn-oidc- cf-access- cf-cert- cf-client-cert "
    b"x-goog-authenticated- x-goog-iap- "
    b"x-ms-client-principal x-ms-token- x-pomerium- x-authentik- x-authelia- x-authenticated- x-webauth- x-vouch- "
    b"x-consumer- x-credential- x-jwt- x-endpoint-api-userinfo x-apigateway-api-userinfo tailscale- teleport- oidc- "
    b"shib- x-shib- iv- wl-proxy- $ws".split()
)
PLACE_FAMILIES: Final = tuple(
    b"cf-ip cf-region cf-metro-code cf-postal-code cf-timezone cloudfront-viewer- cloudfront-is- x-appengine- "
    b"x-vercel-ip- x-akamai-edgescape x-client-geo-location fastly-geo geoip- x-geoip- x-nf-geo "
    b"cdn-requestcountrycode".split()
)
FAMILIES: Final = (*IDENTITY_FAMILIES, *PLACE_FAMILIES)
NAMES: Final = ADDRESSES | IDENTITIES
STARTS: Final = frozenset(name[:3] for name in (*NAMES, *FAMILIES))  # most names of most heads have another
OVERRIDES: Final = frozenset(
    b"x-host x-http-host-override x-original-url x-original-uri x-original-host x-rewrite-url x-rewrite-uri "
    b"x-request-uri x-override-url x-http-destinationurl x-backend-host x-proxy-url base-url proxy-host proxy-url "
    b"x-http-method x-http-method-override x-method-override x-url-scheme x-scheme front-end-https x-wap-profile "
    b"forwarded-host forwarded-proto forwarded-server http-host host-name request-uri uri url http-url x-url x-path "
    b"x-method x-override x-host-override x-server-name x-matched-path x-now-route-matches x-nextjs-data "
    b"x-arr-ssl x-http-path-override x-real-host x-script-name "
    b"script-name path-info x-path-info x-base-url x-base-path x-base-href x-root-path x-url-prefix x-url-base "
    b"x-proxy-prefix x-proxy-path x-proxy-host x-proxy-scheme x-ingress-path x-external-path x-external-host "
    b"x-external-url x-external-scheme x-external-proto x-replaced-path x-request-url x-request-host "
    b"x-request-path x-request-scheme x-real-url x-real-uri x-real-path x-real-scheme x-real-proto x-http-host "
    b"x-http-url x-http-uri x-http-scheme x-http-verb x-host-name x-client-host x-client-proto x-client-scheme "
    b"x-dev-forwarded-host x-override-host x-override-uri x-override-path x-upstream-url x-proto x-https x-ssl "
    b"https x-server-port x-server-proto x-url-rewrite x-rewritten-url x-iis-original-url original-url rewrite-url "
    b"cf-visitor cloudfront-forwarded-proto fly-forwarded-proto fly-forwarded-port "
    b"x-vercel-forwarded-host x-vercel-forwarded-proto".split()
)
METHODS: Final = frozenset(b"x-http-method x-http-method-override x-method-override x-method x-http-verb".split())
TARGETS: Final = (b"x-original-url", b"x-rewrite-url")  # that frameworks take for the target (CVE-2018-14773)
NOBODY: Final = frozenset(
    (b"", b"-", b"0", b"none", b"null", b"(null)", b"false")
)  # what fronts say where they know no identity
OF_CONNECTIONS: Final = frozenset(  # what fronts say of each connection; one of few values
    b"ssl-protocol ssl-cipher ssl-version x-ssl-protocol x-ssl-cipher x-ssl-version wl-proxy-ssl".split()
)
OVERRIDE_FAMILIES: Final = (b"x-original-", b"x-rewrite-")


def claims_in(names: Collection[bytes]) -> tuple[bytes, ...]:
    """Those of the lower-case names that are accepted from trusted proxies only."""
    return tuple([name for name in names if name[:3] in STARTS and is_claim(name)])


def is_claim(name: bytes) -> bool:
    """Whether the field `name`, in lower case, is accepted from trusted proxies only."""
    return name in NAMES or name.startswith(FAMILIES)


def is_place(name: bytes) -> bool:
    """Whether the field `name`, in lower case, names the client's place."""
    return name not in NAMES and name.startswith(PLACE_FAMILIES)


def is_sent_to_parent(name: bytes) -> bool:
    """Whether a child forwards the field `name`, in lower case, to its parent: it is part of the cache key."""
    return name not in ADDRESSES and is_claim(name)


def is_override(name: bytes) -> bool:
    """Whether the field `name`, in lower case, can make an origin answer for another target than the key's."""
    return name in OVERRIDES or name.startswith(OVERRIDE_FAMILIES)


def overrides_method(request: Request) -> bool:
    """Whether `request` is forwarded with a field that overrides its method."""
    return not METHODS.isdisjoint(request.fields.names()) and not is_never_cached(request)


def without_untrusted(request: Request, *, believed: bool) -> Request:
    """`request` without untrusted claims; trusted ones become part of its cache key."""
    claims = request.claims
    if not believed:
        return request._replace(fields=request.fields.without(claims), claims=())
    said = [name for name in dict.fromkeys(claims) if name not in ADDRESSES]
    own = tuple([name for name in said if _is_identity(name, request.fields.get(name) or b"")])
    return request._replace(claims=own, group=_group(request.fields, sorted(said)) if said and not own else b"")


def _is_identity(name: bytes, value: bytes) -> bool:
    return not (is_place(name) or name in OF_CONNECTIONS or value.lower() in NOBODY)


def _group(fields: Fields, places: Collection[bytes]) -> bytes:
    parts = [part for name in places for part in (name, fields.get(name) or b"")]
    text = b"".join([b"%d:%b" % (len(part), part) for part in parts])  # no part can run into the next
    return b" " + blake2b(text, digest_size=16).hexdigest().encode()


def is_never_cached(request: Request) -> bool:
    """Whether the answer to `request` may be stored, or come from store (RFC 9110 §9.2.3)."""
    return request.content is not None or (request.method in (b"GET", b"HEAD") and request.framing.length == 0)
