"""The checks that one table of a rule requires, with the parts that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgecache.proxy.access.addresses import Countries, Networks
from edgecache.proxy.access.admission import Check
from edgecache.proxy.hooks import Context

if TYPE_CHECKING:
    from edgecache.config.sites.model import Access, Basic, Bots, ForwardAuth, Jwt, SignedUrl

Make = Callable[[], Check]
OF_NO_COUNTRY: Final = "Requests of clients whose country is not known, where a rule of access asks for it."
LARGEST: Final = 1024 * 1024  # bytes of a file of keys


def checks_of(context: Context, table: Access, place: str) -> Iterator[Make]:
    """What makes the checks of `table`, one after the other; libraries are imported with those that need them."""
    if table.allow or table.deny:
        yield partial(Networks, [one.network for one in table.allow], [one.network for one in table.deny])
    if table.allow_countries or table.deny_countries:
        unknown = _counting(context, "edgecache_access_country_unknown", OF_NO_COUNTRY, place)
        yield partial(Countries, table.allow_countries, table.deny_countries, unknown)
    if table.jwt is not None:
        yield partial(_token_check, context, table.jwt, place)
    if table.signed is not None:
        yield partial(_signed_check, context, table.signed)
    if table.basic is not None:
        yield partial(_password_check, table.basic)
    if table.forward_auth is not None:
        yield partial(_forward_auth_check, context, table.forward_auth, place)
    if table.bots is not None:
        yield partial(_bot_check, context, table.bots, place)


def content_of(context: Context, path: str) -> bytes:
    """What the file at `path` had when the text of sites was checked, or what it has now."""
    known: bytes | None = getattr(context.settings.sites, "files", {}).get(path)
    if known is not None:
        return known
    with Path(path).open("rb") as file:
        return file.read(LARGEST)


def _counting(context: Context, name: str, meaning: str, place: str) -> Callable[[], None]:
    """Adds one to the counter of that name, for this rule."""
    counter = context.registry.counter(name, meaning, rule=place)

    def add() -> None:
        counter.value += 1

    return add


def _token_check(context: Context, written: Jwt, place: str) -> Check:
    from edgecache.config.sites.compiler import glob
    from edgecache.proxy.access.json_web_tokens import Claims, TokenCheck
    from edgecache.proxy.access.key_sets import FileKeys, RemoteKeys
    from edgecache.semantics.signing.token_keys import keys_of

    keys: FileKeys | RemoteKeys
    if written.jwks is not None:
        failed = _counting(context, "edgecache_access_key_set_failures", "Fetches of key sets that failed.", place)
        keys = RemoteKeys(written.jwks, context.clock.now, failed)
    else:
        text = written.keys or ""
        is_inline = text.lstrip().startswith(("-----BEGIN ", "{"))
        keys = FileKeys(keys_of(text.encode() if is_inline else content_of(context, text)))
    return TokenCheck(written, keys, Claims(written, glob))


def _signed_check(context: Context, written: SignedUrl) -> Check:
    from edgecache.proxy.access.signed_requests import SignedCheck
    from edgecache.semantics.signing.signing_dialects import verifier_of

    contents = {name: content_of(context, path) for name, path in written.keys.items()}
    return SignedCheck(verifier_of(written, contents), reads_cookies=written.cookie is not None)


def _password_check(written: Basic) -> Check:
    from edgecache.proxy.access.passwords import PasswordCheck, import_libraries, verify_password

    import_libraries(written.users)
    return PasswordCheck(written, verify_password)


def _forward_auth_check(context: Context, written: ForwardAuth, place: str) -> Check:
    from edgecache.proxy.access.forward_auth import ForwardAuthCheck

    words = "Subrequests of forward_auth without a usable response."
    failed = _counting(context, "edgecache_access_forward_auth_failures", words, place)
    return ForwardAuthCheck(written, context.clock.now, failed)


def _bot_check(context: Context, written: Bots, place: str) -> Check:
    from edgecache.proxy.access.bot_signatures import BotCheck, directory_keys
    from edgecache.proxy.access.key_sets import RemoteKeys
    from edgecache.proxy.access.nonces import UsedNonces

    words = "Fetches of key sets that failed."
    failed = _counting(context, "edgecache_access_key_set_failures", words, place)
    nonces = context.nonces or UsedNonces(context.clock.wall, None)
    nonces.begin()
    return BotCheck(written, lambda url: RemoteKeys(url, context.clock.now, failed, directory_keys), nonces)
