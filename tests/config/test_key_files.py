"""Files of keys that rules of access name: checked whole before a POP starts, and before a reload is taken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness.tokens import PRIVATE, key_set, private_pem, public_jwk, public_pem

from edgecache.config.settings import load
from edgecache.config.sites.parser import SitesError, written
from edgecache.config.sources import Source
from edgecache.semantics.errors import ConfigError
from edgecache.server.cli import main
from edgecache.server.config_reload import Configuration
from edgecache.telemetry.metrics import Registry

START = '[[sites]]\nname = "a"\nhosts = ["*"]\norigin = "http://192.0.2.1"\n[[sites.rules]]\nname = "r"\n'
SMALL_RSA = rsa.generate_private_key(65537, 1024)
FILE = "the file that it names"
JWT = "access.jwt = {{ keys = '{}' }}\n"
OWN = "access.signed = {{ keys = {{ k = '{}' }} }}\n"
HMAC = "access.jwt = {{ keys = '{}', algorithms = ['HS256'] }}\n"


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """The public key as PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def of_format(name: str) -> str:
    """A rule with signatures of that format."""
    return f"access.signed = {{{{ format = '{name}', keys = {{{{ k = '{{}}' }}}} }}}}\n"


def oct_set(secret: bytes) -> bytes:
    """A key set with a secret."""
    return json.dumps({"keys": [{"kty": "oct", "k": secret.hex()}]}).encode()


WRONG: dict[str, tuple[str, bytes, str]] = {
    "token keys: text": (JWT, b"hello", f"jwt.keys: {FILE} is not a readable JWK"),
    "token keys: a web page": (JWT, b"<!doctype html><p>Sign in", f"jwt.keys: {FILE} is not a readable JWK"),
    "token keys: an empty set": (JWT, b'{"keys": []}', f"jwt.keys: {FILE} is not a readable JWK"),
    "token keys: a list": (JWT, b"[]", f"jwt.keys: {FILE} is not a readable JWK"),
    "token keys: for encryption": (
        JWT,
        json.dumps({"keys": [{**public_jwk("rsa"), "use": "enc"}]}).encode(),
        f"jwt.keys: {FILE} is not a readable JWK",
    ),
    "token keys: half a PEM": (JWT, public_pem("rsa")[:90], f"jwt.keys: {FILE} is not a readable JWK"),
    "token keys: two broken lines": (
        JWT,
        b"-----BEGIN PUBLIC KEY-----\n!!\n",
        f"jwt.keys: {FILE} is not a readable JWK",
    ),
    "token keys: not UTF-8": (JWT, b"\xff\xfe{}", f"jwt.keys: {FILE} is not a readable JWK"),
    "token keys: a private key": (JWT, private_pem("rsa"), f"jwt.keys: {FILE} is a private key"),
    "token keys: a private JWK": (
        JWT,
        json.dumps({**public_jwk("ed"), "d": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}).encode(),
        f"jwt.keys: {FILE} has a private key",
    ),
    "token keys: a small RSA key": (JWT, pem(SMALL_RSA), f"jwt.keys: {FILE} has an RSA key of 1024 bits"),
    "token keys: a secret for public algorithms": (
        JWT,
        key_set("secret"),
        f"jwt.keys: {FILE} has no key for RS256, ES256, EdDSA",
    ),
    "token keys: of another curve": (
        JWT,
        pem(ec.generate_private_key(ec.SECP384R1())),
        f"jwt.keys: {FILE} has no key for RS256, ES256, EdDSA",
    ),
    "token keys: a public key for HS256": (HMAC, key_set("rsa"), f"jwt.keys: {FILE} has no key for HS256"),
    "token keys: a short secret": (HMAC, oct_set(b"twelve bytes"), f"jwt.keys: {FILE} has a secret of 18 bytes"),
    "own format: a short secret": (OWN, b"too short\n", f"signed.keys.k: {FILE} holds a secret of fewer than 16"),
    "own format: a PEM key": (OWN, public_pem("rsa"), f"signed.keys.k: {FILE} is a key in PEM"),
    "own format: two lines": (OWN, b"0123456789abcdef\n0123456789abcdef\n", f"signed.keys.k: {FILE} holds more"),
    "own format: only space": (OWN, b"   \n", f"signed.keys.k: {FILE} is empty"),
    "nginx: a PEM key": (of_format("nginx-secure-link"), public_pem("rsa"), f"signed.keys.k: {FILE} is a key in PEM"),
    "akamai: not hexadecimal": (of_format("akamai"), b"a secret of the tests", f"signed.keys.k: {FILE} is not hex"),
    "akamai: an odd digit": (of_format("akamai"), b"abc" * 15, f"signed.keys.k: {FILE} is not hexadecimal"),
    "akamai: a short key": (of_format("akamai"), b"abcd", f"signed.keys.k: {FILE} holds a key of fewer than 8"),
    "cloudfront: a secret": (of_format("cloudfront"), b"a secret", f"signed.keys.k: {FILE} is no public key in PEM"),
    "cloudfront: a private key": (of_format("cloudfront"), private_pem("rsa"), f"signed.keys.k: {FILE} holds a priv"),
    "cloudfront: Ed25519": (of_format("cloudfront"), pem(PRIVATE["ed"]), f"signed.keys.k: {FILE} is neither"),
    "cloudfront: a small key": (
        of_format("cloudfront"),
        pem(SMALL_RSA),
        f"signed.keys.k: {FILE} is an RSA key of 1024",
    ),
}


@pytest.fixture(params=WRONG, ids=[name.replace(" ", "-") for name in WRONG])
def wrong(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A text of sites with a file of keys that cannot be used, and how its one sentence goes on."""
    rule, content, words = WRONG[request.param]
    key, sites = tmp_path / "key", tmp_path / "sites.toml"
    key.write_bytes(content)
    key.chmod(0o600)
    sites.write_text(START + rule.format(key))
    return sites, f"{sites}:7: sites[1].rules[1].access.{words}"


def test_a_file_of_keys_that_cannot_be_used_refuses_the_start(
    wrong: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` and `check-config` exit with 2, in the same sentence; nothing of the file is quoted."""
    sites, start = wrong
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECACHE_SITES", str(sites))
    said = []
    for command in ("check-config", "serve"):
        assert main([command]) == 2
        said.append(capsys.readouterr().err)

    assert said[0] == said[1]
    assert said[0].startswith(f"EDGECACHE_SITES: {start}")
    assert said[0].count("\n") == 1
    content = (sites.parent / "key").read_bytes().strip()
    assert not content or content.decode("latin-1") not in said[0]


def test_a_reload_with_such_a_file_keeps_the_last_good_one(wrong: tuple[Path, str]) -> None:
    """Settings and the environment of workers stay; the sentence is the same."""
    sites, start = wrong
    bad = sites.read_text()
    sites.write_text(START)
    source = Source({"EDGECACHE_SITES": str(sites), "EDGECACHE_MEMORY": "64MiB", "EDGECACHE_WORKERS": "1"})
    configuration = Configuration(source, load(source.read()), Registry())
    before, told = configuration.settings, configuration.environ
    sites.write_text(bad)
    with pytest.raises(ConfigError) as refused:
        configuration.read_again()

    assert str(refused.value).startswith(f"EDGECACHE_SITES: {start}")
    assert configuration.settings is before
    assert configuration.environ is told


@pytest.mark.parametrize(
    ("rule", "content"),
    [
        (JWT, key_set("rsa", "p256", "ed")),
        (JWT, key_set("secret", "rsa")),
        (JWT, public_pem("p256")),
        (JWT, json.dumps(public_jwk("ed")).encode()),
        (HMAC, key_set("secret")),
        (OWN, b"a secret of the tests\n"),
        (of_format("nginx-secure-link"), b"secret\n"),
        (of_format("akamai"), b"52a1" * 8 + b"\r\n"),
        (of_format("cloudfront"), public_pem("rsa")),
        (of_format("cloudfront"), public_pem("p256")),
    ],
    ids=range(10),
)
def test_a_file_of_keys_that_can_be_used(rule: str, content: bytes, tmp_path: Path) -> None:
    """Of each kind."""
    key = tmp_path / "key"
    key.write_bytes(content)
    assert written(START + rule.format(key)).files[str(key)] == content.rstrip(b"\r\n")


def test_a_key_that_is_no_file_or_cannot_be_read(tmp_path: Path) -> None:
    """A directory, nothing at all, and, but for root, a file of somebody else's."""
    for path, words in ((tmp_path, "is not a file"), (tmp_path / "none", "cannot be read: No such file or directory")):
        with pytest.raises(SitesError, match=rf"line 7: .*access\.signed\.keys\.k: {FILE} {words}"):
            written(START + OWN.format(path))
    locked = tmp_path / "locked"
    locked.write_bytes(b"a secret of the tests")
    locked.chmod(0)
    if os.geteuid():
        with pytest.raises(SitesError, match="cannot be read: Permission denied"):
            written(START + OWN.format(locked))


def test_a_key_in_the_text_itself_is_checked_too() -> None:
    """A PEM key or a key set between quotes; a private one is not quoted in the sentence."""
    for content, words in (("{}", "is not a readable JWK set"), (private_pem("rsa").decode(), "is a private key")):
        with pytest.raises(SitesError, match=f"jwt.keys: the value {words}") as refused:
            written(START + f"access.jwt = {{ keys = '''{content}''' }}\n")
        assert "BEGIN" not in str(refused.value)


def test_secrets_that_others_may_read_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each, at start and by `check-config`; public keys may be read by all."""
    key, public = tmp_path / "key", tmp_path / "public"
    key.write_bytes(b"a secret of the tests")
    public.write_bytes(public_pem("rsa"))
    public.chmod(0o644)
    text = START + OWN.format(key) + JWT.format(public)
    for mode, count in ((0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1)):
        key.chmod(mode)
        warnings = written(text).warnings
        assert len(warnings) == count, oct(mode)
    assert warnings[0].startswith("EDGECACHE_SITES: sites.1.rules.1.access.signed.keys.k: the file of this secret is")
    for name in [name for name in os.environ if name.startswith("EDGECACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EDGECACHE_SITES", text)
    assert main(["check-config"]) == 0
    assert warnings[0] in caplog.text
