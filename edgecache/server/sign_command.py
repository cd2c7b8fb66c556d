"""`edgecache sign-url`: a signed URL, or a signed cookie, for rules with `access.signed`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from edgecache.config.types import duration
from edgecache.semantics import uri
from edgecache.semantics.client_address import parsed_address
from edgecache.semantics.errors import ConfigError
from edgecache.semantics.signing.own_format import PARAMETER, token_for


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    words = "Sign a URL with a key of `access.signed`, and print the result. Use the same key file as in the rule."
    sign = commands.add_parser("sign-url", help="sign a URL or a cookie", description=words)
    sign.add_argument("url", help="the URL, http(s)://host/path?query")
    sign.add_argument("--key", required=True, metavar="NAME=FILE", help="the key: its name in the rule, and its file")
    sign.add_argument("--expires", default="1h", metavar="DURATION", help="validity, such as 10m, 1h, 7d (default: 1h)")
    sign.add_argument("--prefix", action="store_true", help="sign all URLs below the path, not just this one")
    sign.add_argument("--address", default="", help="valid only for the client at this address")
    sign.add_argument("--parameter", default=PARAMETER, help=f"the query parameter (default: {PARAMETER})")
    sign.add_argument("--cookie", default="", metavar="NAME", help="print a cookie of this name instead of the URL")
    sign.set_defaults(command=_sign)


def _sign(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what is signed; raises ConfigError."""
    name, equals, path = chosen.key.partition("=")
    if not equals:
        raise ConfigError("sign-url", "--key is not NAME=FILE")
    if chosen.address and parsed_address(chosen.address) is None:
        raise ConfigError("sign-url", "--address is not an IP address")
    scheme, _, rest = chosen.url.partition("://")
    authority, slash, rest = rest.partition("/")
    try:
        key = Path(path).read_bytes().strip()
        expires = int(time.time() + duration(chosen.expires))
        target = uri.ascii_target(slash + rest) or b"/"
        host = uri.site(uri.ascii_authority(authority), scheme.encode())
    except OSError as error:
        raise ConfigError("sign-url", f"the file of the key cannot be read: {error.strerror}") from None
    except (ValueError, KeyError):
        raise ConfigError("sign-url", "needs a URL such as http(s)://host/path, and --expires such as 1h") from None
    token = token_for(
        name, key, expires, host=host, target=target, is_prefix=chosen.prefix, address=chosen.address
    ).decode()
    if chosen.cookie:
        print(f"{chosen.cookie}={token}")
        return 0
    separator = "&" if b"?" in target else "?"
    sys.stdout.write(f"{scheme}://{authority}{target.decode()}{separator}{chosen.parameter}={token}\n")
    return 0
