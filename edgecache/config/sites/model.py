"""What may be written in the text of sites: one class per table. Keys that are not listed here are errors.

The published JSON Schema (`edgecache check-config --sites-schema`) is made from these classes and their descriptions.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from edgecache.config.sites.scalars import Cidr, Duration, PasswordHash, Regex, Size

# `$` alone would match before a line break at the end, too.
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$(?!\n)",
        description="A name of up to 64 lower-case letters, digits, dots, dashes and underscores.",
    ),
]
Token = Annotated[
    str,
    Meta(
        pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$(?!\n)",
        description="A token (RFC 9110 §5.6.2): letters, digits and dashes, without spaces or colons.",
    ),
]
FieldValue = Annotated[
    str,
    Meta(
        pattern=r"^[\t\x20-\x7e\x80-\xff]*$(?!\n)",
        max_length=8192,
        description="A field value: printable characters of Latin-1, without line breaks.",
    ),
]
Status = Annotated[
    str,
    Meta(
        pattern=r"^([1-5]xx|[1-5][0-9]{2})$(?!\n)", description='A status code such as "404", or a class such as "5xx".'
    ),
]
Share = Annotated[float, Meta(ge=0, le=1, description="A share from 0 to 1.")]
TierResult = Literal["hit", "miss", "stale", "revalidated", "pass", "error"]
Country = Annotated[
    str,
    Meta(
        pattern=r"^[A-Z]{2}$(?!\n)",
        description="A country code of two capital letters (ISO 3166-1 alpha-2), such as DE.",
    ),
]


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Base of all tables."""


class Pattern(Table, frozen=True, kw_only=True):
    """A pattern that is a regular expression, matched anywhere in the value; `^` and `$` anchor it."""

    regex: Regex


Values = bool | str | tuple[str, ...] | Pattern
"""Of a header, cookie or query parameter: true (present), false (absent), a glob, several globs, or a regex."""


class When(Table, frozen=True, kw_only=True, rename={"negated": "not"}):
    """Conditions; all conditions that are given must match. A list contains alternatives."""

    scheme: Literal["http", "https"] | None = None
    host: Annotated[str | tuple[str, ...] | None, Meta(description="Globs of the host, without port.")] = None
    path: Annotated[
        str | tuple[str, ...] | None, Meta(description="Globs of the path: * is any text, ? one character.")
    ] = None
    path_prefix: str | tuple[str, ...] | None = None
    path_regex: Regex | None = None
    method: Token | tuple[Token, ...] | None = None
    header: dict[Token, Values] | None = None
    cookie: dict[str, Values] | None = None
    query: dict[str, Values] | None = None
    network: Annotated[tuple[Cidr, ...] | None, Meta(description="Networks of the client.")] = None
    country: Country | tuple[Country, ...] | None = None
    status: Status | tuple[Status, ...] | None = None
    content_type: Annotated[str | tuple[str, ...] | None, Meta(description='Globs, such as "image/*".')] = None
    result: TierResult | tuple[TierResult, ...] | None = None
    negated: When | None = None
    any: tuple[When, ...] | None = None


class FieldEdits(Table, frozen=True, kw_only=True):
    """Changes of a message's fields, in this order: remove, set, add."""

    remove: tuple[Token, ...] = ()
    set: dict[Token, FieldValue] = {}
    add: dict[Token, FieldValue] = {}


class Canary(Table, frozen=True, kw_only=True):
    """A share of the clients that is sent to another pool; a cookie keeps each client on its pool."""

    pool: Name
    share: Share
    cookie: Token = "edgecache-canary"


class Route(Table, frozen=True, kw_only=True):
    """Where requests are sent, and how they are changed."""

    pool: Name | None = None
    host: Annotated[str | None, Meta(description='The Host sent upstream: "client", "origin" or a name.')] = None
    strip_prefix: str | None = None
    add_prefix: str | None = None
    rewrite: Regex | None = None
    to: Annotated[str | None, Meta(description="Replacement for `rewrite`: $1 … $9 are its groups.")] = None
    credentials: Name | None = None
    canary: Canary | None = None


class QueryKey(Table, frozen=True, kw_only=True):
    """Query parameters in the cache key, and as they are sent upstream."""

    keep: Annotated[tuple[str, ...] | None, Meta(description="Globs; all others are dropped.")] = None
    drop: tuple[str, ...] = ()
    sort: bool = False


class CacheKey(Table, frozen=True, kw_only=True):
    """Parts of the cache key besides the URL."""

    query: QueryKey | None = None
    headers: tuple[Token, ...] = ()
    cookies: tuple[str, ...] = ()
    country: bool = False
    device: Annotated[bool, Meta(description="Class of the device: mobile, tablet or desktop.")] = False


class Cache(Table, frozen=True, kw_only=True):
    """How responses are stored and used."""

    store: Annotated[bool | None, Meta(description="false: pass requests on, without lookup or storage.")] = None
    ttl: Annotated[Duration | None, Meta(description="Freshness, whatever the origin says.")] = None
    default_ttl: Annotated[Duration | None, Meta(description="Freshness where the origin specifies none.")] = None
    ttl_by_status: dict[Status, Duration] | None = None
    stale_while_revalidate: Duration | None = None
    stale_if_error: Duration | None = None
    set_cookie: Annotated[
        Literal["respect", "ignore"] | None, Meta(description="ignore: drop it, and store the response.")
    ] = None
    cache_control: Literal["respect", "ignore"] | None = None
    client_revalidation: Literal["honour", "collapse", "ignore"] | None = None
    admission: Annotated[
        Literal["normal", "read-only"] | None, Meta(description="read-only: hits, but no fills and no evictions.")
    ] = None
    query_method: Annotated[bool | None, Meta(description="Store responses to QUERY (RFC 10008).")] = None
    slices: Annotated[
        Size | None, Meta(description="Size of the slices in which larger objects are fetched and stored; 0: none.")
    ] = None
    tags: tuple[str, ...] = ()
    key: CacheKey | None = None


class Redirect(Table, frozen=True, kw_only=True):
    """A redirect: $scheme, $host, $path, $query (with its ?) and $1 … $9 of the rule's `path_regex` are replaced."""

    to: str
    status: Literal[301, 302, 303, 307, 308] = 308


class Respond(Table, frozen=True, kw_only=True):
    """A fixed response."""

    status: Annotated[int, Meta(ge=200, le=599)] = 200
    body: str = ""
    content_type: FieldValue = "text/plain; charset=utf-8"
    headers: dict[Token, FieldValue] = {}


class Cors(Table, frozen=True, kw_only=True):
    """Cross-origin resource sharing (Fetch §3.2): preflights are answered here."""

    origins: Annotated[tuple[str, ...], Meta(min_length=1)]
    methods: tuple[Token, ...] = ("GET", "HEAD", "POST")
    headers: tuple[Token, ...] = ()
    expose: tuple[Token, ...] = ()
    credentials: bool = False
    max_age: Duration = field(default_factory=lambda: Duration(86400))


PASSED = "true: the credentials go upstream, and the response is stored only as RFC 9111 §3.5 allows."
Realm = Annotated[str, Meta(pattern=r"^[ !#-\[\]-~]{1,128}$", description="Printable, without quotes.")]


class Basic(Table, frozen=True, kw_only=True):
    """HTTP Basic (RFC 7617) by hashes of argon2 or bcrypt, never plain passwords."""

    users: Annotated[dict[str, PasswordHash], Meta(min_length=1)]
    realm: Realm = "edgecache"
    pass_credentials: Annotated[bool, Meta(description=PASSED)] = False


class Jwt(Table, frozen=True, kw_only=True):
    """JSON Web Tokens (RFC 7519) as bearer tokens or in a cookie."""

    jwks: Annotated[str | None, Meta(description="URL of the key set; it is fetched again as keys rotate.")] = None
    keys: Annotated[str | None, Meta(description="Path of a file with a key set, or a PEM key.")] = None
    algorithms: tuple[str, ...] = ("RS256", "ES256", "EdDSA")
    issuer: str | None = None
    audience: str | None = None
    claims: dict[str, str | tuple[str, ...]] = {}
    cookie: Annotated[Token | None, Meta(description="A cookie that may also carry the token.")] = None
    pass_credentials: Annotated[bool, Meta(description=PASSED)] = False
    leeway: Duration = field(default_factory=lambda: Duration(30))


class SignedUrl(Table, frozen=True, kw_only=True):
    """Signed URLs and cookies."""

    format: Literal["edgecache", "nginx-secure-link", "cloudfront", "akamai"] = "edgecache"
    keys: Annotated[dict[str, str], Meta(min_length=1, description="Key id → path of a file with the secret.")]
    address: Annotated[bool, Meta(description="The signature must cover the client's address.")] = False
    parameter: Annotated[Token | None, Meta(description="The query parameter with the token.")] = None
    cookie: Annotated[Token | None, Meta(description="A cookie that may also carry the token.")] = None


class ForwardAuth(Table, frozen=True, kw_only=True):
    """A subrequest that decides: 2xx allows the request; any other response is sent to the client."""

    url: str
    headers: tuple[Token, ...] = ("Authorization", "Cookie")
    cache: Duration = field(default_factory=lambda: Duration(10))
    timeout: Duration = field(default_factory=lambda: Duration(2))
    pass_headers: tuple[Token, ...] = ()
    pass_credentials: Annotated[bool, Meta(description=PASSED)] = False


class Bots(Table, frozen=True, kw_only=True):
    """Web Bot Auth: requests signed according to RFC 9421."""

    directories: tuple[str, ...] = ()
    require: bool = False


class Access(Table, frozen=True, kw_only=True):
    """Access control; every condition that is given must be met, and is checked before the cache is used."""

    allow: tuple[Cidr, ...] = ()
    deny: tuple[Cidr, ...] = ()
    allow_countries: tuple[Country, ...] = ()
    deny_countries: tuple[Country, ...] = ()
    public: Annotated[bool, Meta(description="true: removes the requirements of earlier rules.")] = False
    basic: Basic | None = None
    jwt: Jwt | None = None
    signed: SignedUrl | None = None
    forward_auth: ForwardAuth | None = None
    bots: Bots | None = None


class Limit(Table, frozen=True, kw_only=True):
    """Limits on requests; requests over a limit get 429."""

    rate: (
        Annotated[
            str,
            Meta(
                pattern=r"^[1-9][0-9]{0,8}/(s|m|h)$(?!\n)",
                description="A number of requests per unit of time, such as 100/s.",
            ),
        ]
        | None
    ) = None
    burst: Annotated[int, Meta(ge=1)] | None = None
    by: Annotated[tuple[Literal["client", "token", "path", "site"], ...], Meta(min_length=1)] = ("client",)
    header: Annotated[Token, Meta(description="Field that carries the token.")] = "Authorization"
    cookie: Annotated[str | None, Meta(description="Cookie that carries the token, instead of a field.")] = None
    concurrency: Annotated[int, Meta(ge=1, description="Maximum number of concurrent requests.")] | None = None
    body: Annotated[Size | None, Meta(description="Largest request body.")] = None


class Compress(Table, frozen=True, kw_only=True):
    """Compression by this POP, once per stored response and coding."""

    codings: tuple[Literal["br", "zstd", "gzip"], ...] = ("zstd", "br", "gzip")
    types: tuple[str, ...] | None = None
    min_size: Size = field(default_factory=lambda: Size(1024))


class Rule(Table, frozen=True, kw_only=True):
    """Actions that apply where `when` matches."""

    name: Name
    when: When = When()
    last: Annotated[bool, Meta(description="true: later rules of the site are skipped if this one matches.")] = False
    route: Route | None = None
    cache: Cache | None = None
    redirect: Redirect | None = None
    respond: Respond | None = None
    request_headers: FieldEdits | None = None
    response_headers: FieldEdits | None = None
    cors: Cors | None = None
    security_headers: Literal["off", "basic", "strict"] | None = None
    debug: tuple[Literal["x-cache", "server-timing"], ...] = ()
    access: Access | None = None
    limits: tuple[Limit, ...] = ()
    compress: Compress | Literal[False] | None = None


class Server(Table, frozen=True, kw_only=True):
    """A server of a pool."""

    url: Annotated[str, Meta(description="http(s)://host[:port], or unix:/path of a socket.")]
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    region: str | None = None


class Pool(Table, frozen=True, kw_only=True):
    """Interchangeable servers."""

    servers: Annotated[tuple[str | Server, ...], Meta(min_length=1)]
    host: Annotated[str, Meta(description='The Host sent to servers: "client", "origin" or a name.')] = "client"
    tls_name: str | None = None
    ca: str | None = None
    verify: bool = True
    check_path: str = ""
    connections: Annotated[int, Meta(ge=1, le=65535)] | None = None
    connect_timeout: Duration | None = None
    first_byte_timeout: Duration | None = None
    between_bytes_timeout: Duration | None = None
    hedge: bool | None = None


class Credentials(Table, frozen=True, kw_only=True):
    """Credentials for requests upstream; secrets are read from files."""

    kind: Literal["bearer", "basic", "s3"]
    secret: Annotated[str, Meta(description="Path of a file with the secret.")]
    user: Annotated[str, Meta(description="User name, or access key id.")] = ""
    region: str = "us-east-1"


class SiteSettings(Table, frozen=True, kw_only=True):
    """Global settings, overridden for one site."""

    heuristics: bool | None = None
    heuristic_max: Duration | None = None
    negative_ttl: Duration | None = None
    default_stale_if_error: Duration | None = None
    store_set_cookie: bool | None = None
    store_client_errors: bool | None = None
    list_fields: tuple[Token, ...] | None = None


class Certificate(Table, frozen=True, kw_only=True):
    """A certificate, and its key if that is in a separate file."""

    certificate: str
    key: str = ""


class Site(Table, frozen=True, kw_only=True):
    """One site: its host names, its origin or pool, and its rules."""

    name: Name
    hosts: Annotated[tuple[str, ...], Meta(min_length=1, description='Names, "*.example.org", or "*" for all others.')]
    origin: str | None = None
    pool: Name | None = None
    certificates: tuple[Certificate, ...] = ()
    settings: SiteSettings = SiteSettings()
    purge_tokens: Annotated[dict[Name, str], Meta(description="Name → path of a file with the token.")] = {}
    memory_share: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=1,
                description="Share of memory, and of the machine's store, that the site keeps when it is full.",
            ),
        ]
        | None
    ) = None
    maintenance: bool = False
    maintenance_page: str | None = None
    error_pages: Annotated[dict[Status, str], Meta(description="Status → path of an HTML file.")] = {}
    match: Literal["all", "first"] = "all"
    rules: tuple[Rule, ...] = ()


class Document(Table, frozen=True, kw_only=True):
    """The whole document."""

    sites: Annotated[tuple[Site, ...], Meta(min_length=1)]
    pools: dict[Name, Pool] = {}
    credentials: dict[Name, Credentials] = {}
