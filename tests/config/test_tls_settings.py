"""What can be wrong with certificates and listeners: one clear line each, exit 2 at the start."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.certificates import Authority, Files

from edgecache.config.settings import load
from edgecache.semantics.errors import ConfigError
from edgecache.server.cli import main

ORIGIN = {"EDGECACHE_ORIGIN": "http://127.0.0.1:1"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """A good certificate and its key."""
    return Authority(tmp_path).issue("www.example.test")


def refusal(**settings: object) -> str:
    """The line with which the settings are refused."""
    environ = {f"EDGECACHE_{name.upper()}": str(value) for name, value in settings.items()}
    with pytest.raises(ConfigError) as raised:
        load({**ORIGIN, **environ})
    line = str(raised.value)
    assert "\n" not in line
    return line


BROKEN: dict[str, tuple[Callable[[Files], object], str]] = {
    "no certificate": (lambda files: files.certificate.unlink(), "{c}, which cannot be read: No such file"),
    "no key": (lambda files: files.key.unlink(), "{k}, which cannot be read: No such file"),
    "an empty file": (lambda files: files.certificate.write_bytes(b""), "{c}, which holds no certificate in PEM form"),
    "not PEM": (
        lambda files: files.certificate.write_bytes(b"\x30\x82"),
        "{c}, which holds no certificate in PEM form",
    ),
    "a damaged one": (
        lambda files: files.certificate.write_text(files.certificate.read_text().replace("M", "N", 3)),
        "{c}, which",
    ),
    "no key in it": (
        lambda files: files.key.write_bytes(files.certificate.read_bytes()),
        "{k}, which holds no private",
    ),
    "another's key": (
        lambda files: files.key.write_bytes(Authority(files.key.parent, "other").issue("x").key.read_bytes()),
        "{k}, which is not the key of {c}",
    ),
    "an encrypted key": (lambda files: encrypt(files.key), "{k}, a key that is encrypted"),
    "a weak key": (lambda files: weaken(files), "{c}, which OpenSSL refuses: EE_KEY_TOO_SMALL"),
}


def encrypt(key: Path) -> None:
    """Encrypt a key in its place."""
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:canary", "-in", str(key), "-out", f"{key}.enc"]
    subprocess.run(command, check=True, capture_output=True)
    Path(f"{key}.enc").replace(key)


def weaken(files: Files) -> None:
    """Put a certificate with an RSA key of 1,024 bits in the place of a good one."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-days", "2", "-subj", "/CN=weak"]
    command += ["-keyout", str(files.key), "-out", str(files.certificate)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("name", BROKEN)
def test_a_certificate_that_cannot_be_used(files: Files, name: str) -> None:
    """The line names the setting, the file and what is wrong, for listeners, origins and the regional tier."""
    spoil, words = BROKEN[name]
    spoil(files)
    expected = "names " + words.format(c=files.certificate, k=files.key)
    listener = {"tls_listen": "127.0.0.1:0", "tls_certificates": files.pair}
    line = refusal(**listener)
    assert line.startswith("EDGECACHE_TLS_CERTIFICATES: ")
    assert expected in line
    for what, more in {"origin": {"origin": "https://a.test"}, "regional": {}}.items():
        own = {f"{what}_certificate": files.certificate, f"{what}_certificate_key": files.key}
        line = refusal(**own, **more)
        assert line.startswith(f"EDGECACHE_{what.upper()}_CERTIFICATE: ")
        assert expected in line


def test_what_does_not_go_together(files: Files, tmp_path: Path) -> None:
    """A listener without certificates and the reverse, POPs without an authority, one address for two listeners."""
    pair, ca = files.pair, next(tmp_path.glob("*-ca.pem"))
    (tmp_path / "empty").mkdir()
    listens = {"tls_listen": "127.0.0.1:8443", "tls_certificates": pair}
    cases: list[tuple[str, dict[str, object]]] = [
        ("EDGECACHE_TLS_LISTEN: is set, but EDGECACHE_TLS_CERTIFICATES", {"tls_listen": "127.0.0.1:0"}),
        ("EDGECACHE_POP_LISTEN: is set, but EDGECACHE_TLS_CERTIFICATES", {"pop_listen": "127.0.0.1:0", "pop_ca": ca}),
        ("EDGECACHE_TLS_CERTIFICATES: is set, but EDGECACHE_TLS_LISTEN is not", {"tls_certificates": pair}),
        ("EDGECACHE_POP_LISTEN: is set, but EDGECACHE_POP_CA", {"pop_listen": "127.0.0.1:0", "tls_certificates": pair}),
        ("EDGECACHE_POP_CA: is set, but EDGECACHE_POP_LISTEN", {**listens, "pop_ca": ca}),
        ("EDGECACHE_TLS_LISTEN: is the same as EDGECACHE_LISTEN", {**listens, "listen": "127.0.0.1:8443"}),
        ("EDGECACHE_TLS_LISTEN: is the same as EDGECACHE_ADMIN", {**listens, "admin_listen": "127.0.0.1:8443"}),
        (
            "EDGECACHE_POP_LISTEN: is the same as EDGECACHE_TLS_LISTEN",
            {**listens, "pop_ca": ca, "pop_listen": "127.0.0.1:8443"},
        ),
        (
            "EDGECACHE_ORIGIN_CERTIFICATE: is set, but EDGECACHE_ORIGIN is not",
            {"origin_certificate": files.certificate},
        ),
        ("EDGECACHE_ORIGIN_CERTIFICATE_KEY: is set, but", {"origin_certificate_key": files.key}),
        ("EDGECACHE_TLS_CERTIFICATES: ", {**listens, "tls_certificates": tmp_path / "empty"}),
        ("EDGECACHE_TLS_CERTIFICATES: ", {**listens, "tls_certificates": f"{files.certificate}|"}),
        ('EDGECACHE_HTTPS_REDIRECT: "yes" is not on, off or a port', {"https_redirect": "yes"}),
        ("EDGECACHE_HTTPS_REDIRECT: ", {"https_redirect": "65536"}),
        ("EDGECACHE_HSTS: ", {"hsts": "max-age=1\r\nX: 1"}),
        ("EDGECACHE_HSTS: ", {"hsts": "1 year"}),
    ]
    for words, settings in cases:
        assert refusal(**settings).startswith(words)


@pytest.mark.parametrize("variable", ["EDGECACHE_TLS_LISTEN", "EDGECACHE_POP_LISTEN"])
def test_serve_refuses_a_port_in_use(
    variable: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clear line and exit 2."""
    monkeypatch.setattr("os.environ", {**ORIGIN, "EDGECACHE_TLS_CERTIFICATES": files.pair})
    for other in ("EDGECACHE_LISTEN", "EDGECACHE_ADMIN_LISTEN", "EDGECACHE_TLS_LISTEN", "EDGECACHE_POP_LISTEN"):
        monkeypatch.setenv(other, "127.0.0.1:0")
    monkeypatch.setenv("EDGECACHE_POP_CA", str(next(tmp_path.glob("*-ca.pem"))))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv(variable, address)
        assert main(["serve"]) == 2
    assert capsys.readouterr().err == f"{variable}: {address} is in use\n"


def test_a_broken_configuration_file_refuses_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`serve` and `check-config` say the same one line."""
    file = tmp_path / "edgecache.env"
    file.write_text("EDGECACHE_ORIGIN=http://127.0.0.1:1\nnonsense\n")
    monkeypatch.setattr("os.environ", {})
    for command in ("serve", "check-config"):
        assert main([command, "--config", str(file)]) == 2
        assert capsys.readouterr().err == "EDGECACHE_CONFIG_FILE: edgecache.env line 2 is not NAME=value\n"


def test_check_config_tells_what_comes_from_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Value and source of each setting."""
    file = tmp_path / "edgecache.env"
    file.write_text("EDGECACHE_ORIGIN=http://127.0.0.1:1\nEDGECACHE_POP=file\n")
    monkeypatch.setattr("os.environ", {"EDGECACHE_POP": "environment"})
    assert main(["check-config", "--config", str(file)]) == 0
    lines = {line.split()[0]: line.split()[1:3] for line in capsys.readouterr().out.splitlines()}
    assert lines["EDGECACHE_ORIGIN"] == ["http://127.0.0.1:1", "file"]
    assert lines["EDGECACHE_POP"] == ["environment", "set"]
