"""The running chain of deploy/docker-compose.yml as the smoke test sees it: its ports, its containers, its secrets."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HOST = "blog.test"  # the site's name: the same at every edge, as DNS would have it
PATIENCE = 60.0  # seconds until a container that was started has to be well
EDGES = ("edge-eu", "edge-us")
POPS = (*EDGES, "shield")
VALKEYS = {"valkey-eu": "edge-eu", "valkey-us": "edge-us", "valkey-shield": "shield"}  # and the POP that each serves
ORIGINS = ("origin-eu", "origin-us")
SERVICES = (*POPS, *VALKEYS, *ORIGINS)
PORTS = {
    "edge-eu": ("EDGE_EU_PORT", 8081),
    "edge-us": ("EDGE_US_PORT", 8082),
    "origin-eu": ("ORIGIN_EU_PORT", 8091),
    "origin-us": ("ORIGIN_US_PORT", 8092),
    "prometheus": ("PROMETHEUS_PORT", 9090),
}
ADMIN_PORTS = {
    "edge-eu": ("EDGE_EU_ADMIN_PORT", 9901),
    "edge-us": ("EDGE_US_ADMIN_PORT", 9902),
    "shield": ("SHIELD_ADMIN_PORT", 9903),
}


class Failed(Exception):
    """What a check found wrong, in words for its row."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; the names of its fields are in lower case."""

    status: int
    fields: tuple[tuple[str, str], ...]
    content: bytes

    def values(self, name: str) -> list[str]:
        """The values of every line of a field."""
        return [value for key, value in self.fields if key == name]

    @property
    def cache_status(self) -> str:
        """Every tier that the answer came through, the nearest last."""
        return ", ".join(self.values("cache-status"))

    def json(self) -> Any:
        """The content, parsed."""
        return json.loads(self.content)


def connect(service: str, *, admin: bool = False, timeout: float = 10.0) -> http.client.HTTPConnection:
    """A connection to a port that the chain publishes."""
    name, usual = (ADMIN_PORTS if admin else PORTS)[service]
    return http.client.HTTPConnection("127.0.0.1", int(environment().get(name, usual)), timeout=timeout)


def ask_on(
    connection: http.client.HTTPConnection,
    target: str,
    method: str = "GET",
    body: str | None = None,
    fields: Mapping[str, str] | None = None,
) -> Answer:
    """One exchange under the site's name; raises OSError or HTTPException if there is no whole answer."""
    connection.request(method, target, body, {"Host": HOST, **(fields or {})})
    response = connection.getresponse()
    content = response.read()
    return Answer(response.status, tuple((name.lower(), value) for name, value in response.getheaders()), content)


def ask(
    service: str, target: str, method: str = "GET", body: str | None = None, fields: Mapping[str, str] | None = None
) -> Answer:
    """One exchange on a connection of its own."""
    connection = connect(service)
    try:
        return ask_on(connection, target, method, body, fields)
    finally:
        connection.close()


def administer(service: str, target: str, method: str = "GET", body: object = None, token: str | None = None) -> Answer:
    """One exchange with a POP's admin listener, with the admin token or another."""
    token = environment()["EDGECACHE_ADMIN_TOKEN"] if token is None else token
    fields = {"Host": "127.0.0.1", "Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection = connect(service, admin=True, timeout=30.0)
    try:
        return ask_on(connection, target, method, None if body is None else json.dumps(body), fields)
    finally:
        connection.close()


def environment() -> dict[str, str]:
    """deploy/.env, under what this process's environment says."""
    try:
        lines = (HERE / ".env").read_text().splitlines()
    except OSError:
        raise Failed("deploy/.env is missing: make deploy-up writes it") from None
    return {**dict(line.split("=", 1) for line in lines if "=" in line), **os.environ}


def docker(*arguments: str) -> str:
    """What a docker command prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise Failed(f"docker {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout.strip()


def containers(service: str) -> list[str]:
    """The containers of a service of this chain, stopped ones too."""
    project = environment().get("COMPOSE_PROJECT_NAME", "edgecache")
    labels = [f"label=com.docker.compose.project={project}", f"label=com.docker.compose.service={service}"]
    return docker("ps", "-aq", "--filter", labels[0], "--filter", labels[1]).split()


def is_there(service: str) -> bool:
    """Whether a service of a profile has been started."""
    return bool(containers(service))


def container(service: str) -> str:
    """The container of a service of this chain."""
    for found in containers(service):
        return found
    raise Failed(f"{service} has no container: make deploy-up")


def inspect(service: str) -> dict[str, Any]:
    """What the engine knows of a service's container."""
    found: dict[str, Any] = json.loads(docker("inspect", container(service)))[0]
    return found


def is_well(service: str) -> bool:
    """Whether a service answers now: a POP is ready, a site has its health page, a POP is content with its Valkey."""
    try:
        if service in ORIGINS:
            return ask(service, "/health/").status == 200
        ready = administer(VALKEYS.get(service, service), "/readyz")
        return ready.status == 200 and (service in POPS or ready.json()["parts"]["regional"] == "ready")
    except (OSError, http.client.HTTPException):
        return False


def wait_until(true: Callable[[], bool], words: str, patience: float = PATIENCE) -> float:
    """Seconds until something has become true; Failed if it does not."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > patience:
            raise Failed(f"{words}: not within {patience:g} s")
        time.sleep(0.05)
    return time.monotonic() - began
