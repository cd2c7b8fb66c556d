"""What deploy/ promises without an engine: settings that exist and parse, locked-down containers, pinned parts."""

import hashlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from edgecache import __version__
from edgecache.config.secret_files import NAMES_OF_FILES
from edgecache.config.settings import ROWS, Settings, load
from edgecache.config.sources import Source
from edgecache.config.types import ORIGIN, duration
from edgecache.semantics.errors import BAD_CONFIGURATION
from edgecache.server.healthcheck import TIMEOUT
from edgecache.server.worker_slot import KILL_AFTER

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (DEPLOY / "docker-compose.yml").read_text()
DOCKERFILES = {path: path.read_text() for path in (DEPLOY / "Dockerfile", DEPLOY / "site/Dockerfile")}
SETTING = re.compile(r"\bEDGECACHE_[A-Z_]*[A-Z]\b")
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)(?::([-?])([^}]*))?\}")


def parsed(text: str) -> dict[str, Any]:
    """What a YAML text says, by libyaml if it is there: it is ten times as fast."""
    found: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def secrets(path: Path) -> dict[str, str]:
    """What `make deploy-secrets` writes."""
    runpy.run_path(str(DEPLOY / "make_env.py"))["main"](path)
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def services(environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The services of the compose file, with variables put in as compose does it."""

    def value(found: re.Match[str]) -> str:
        name, kind, words = found.groups()
        assert kind != "?" or name in environ, f"{name} is required, and make_env.py does not write it"
        return environ.get(name) or (words if kind == "-" else "")

    found: dict[str, dict[str, Any]] = parsed(VARIABLE.sub(value, COMPOSE))["services"]
    return found


def mounted(service: dict[str, Any], directory: Path) -> dict[str, str]:
    """The environment of a service whose secrets lie in `directory` instead of where the engine mounts them."""
    given = [{"source": one, "target": one} if isinstance(one, str) else one for one in service.get("secrets", [])]
    names = {f"/run/secrets/{one['target']}": one["source"] for one in given}
    sources = parsed(COMPOSE)["secrets"]
    paths = {where: directory / sources[name]["file"].removeprefix("./secrets/") for where, name in names.items()}
    environ: dict[str, str] = service.get("environment", {})
    return {name: str(paths[value]) if value.startswith("/run/secrets/") else value for name, value in environ.items()}


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The services, with fresh secrets."""
    found = services(secrets(tmp_path / "env"))
    for service in found.values():
        service["environment"] = mounted(service, tmp_path / "secrets")
    return found


def pops(chain: dict[str, dict[str, Any]]) -> Iterator[tuple[str, Settings, dict[str, Any]]]:
    """Each POP of the chain with the settings that it will have."""
    for name, service in chain.items():
        if service["image"].startswith("edgecache:"):
            yield name, load(Source(service["environment"]).read()), service


def test_every_setting_that_deploy_names_exists() -> None:
    """No file of deploy/ sets what the program does not know."""
    endings = (".py", ".yml", ".yaml", ".json", ".service", ".md", "Dockerfile")
    files = [path for path in DEPLOY.rglob("*") if path.name.endswith(endings)]
    named = {name for path in files for name in SETTING.findall(path.read_text())}

    assert named - ROWS.keys() - NAMES_OF_FILES == set()
    assert "EDGECACHE_ORIGINS" in named


def test_the_pops_start_with_their_settings(chain: dict[str, dict[str, Any]]) -> None:
    """`serve` would take what compose gives each of them; each has a name of its own, and asks for the admin token."""
    found = {name: settings for name, settings, _ in pops(chain)}

    assert list(found) == ["edge-eu", "edge-us", "shield"]
    assert [settings.pop for settings in found.values()] == list(found)
    assert all(settings.admin_token and settings.regional_key for settings in found.values())


def test_a_stop_leaves_time_to_drain(chain: dict[str, dict[str, Any]]) -> None:
    """The engine kills a POP only after the grace that it gives its clients."""
    for name, settings, service in pops(chain):
        assert duration(service["stop_grace_period"]) > settings.drain_grace + 5, name


def test_containers_are_locked_down(chain: dict[str, dict[str, Any]]) -> None:
    """Nothing writes to its image, holds capabilities, gains privileges, or takes all memory; POPs stay up."""
    for name, service in chain.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys(), name
        assert service["restart"] == ("no" if name == "site-setup" else "unless-stopped"), name


def test_ports_are_published_on_loopback_only(chain: dict[str, dict[str, Any]]) -> None:
    """Nobody but this machine reaches the chain, and no two services want the same port."""
    published = [port for service in chain.values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


def test_images_are_pinned(chain: dict[str, dict[str, Any]]) -> None:
    """Every image has a tag that says which; our own is this version."""
    images = {service["image"] for service in chain.values()}
    bases = {base for text in DOCKERFILES.values() for base in re.findall(r"^ARG PYTHON_IMAGE=(.*)$", text, re.M)}

    assert f"edgecache:{__version__}" in images
    assert all(":" in image and not image.endswith(":latest") for image in images | bases)
    assert len(bases) == 1


def test_secrets_stay_and_are_their_owners(tmp_path: Path) -> None:
    """Who runs it again keeps what is there and gets what is missing; nobody else reads the file."""
    path, other = tmp_path / "env", tmp_path / "other"
    path.write_text("BLOG_SECRET=mine\n")
    first = secrets(path)

    assert (secrets(path), first["BLOG_SECRET"]) == (first, "mine")
    assert secrets(other).keys() == first.keys()
    assert other.stat().st_mode & 0o777 == 0o600


def test_secrets_come_from_the_environment(tmp_path: Path) -> None:
    """They are different each time, and the compose file holds none."""
    first, second = secrets(tmp_path / "first"), secrets(tmp_path / "second")
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] == second[name]} == {"COMPOSE_PROJECT_NAME"}
    for name, service in services(dict.fromkeys(first, "0" * 64)).items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"TOKEN|SECRET|KEY|PASSWORD|_AUTH$", variable):
                assert value == "0" * 64 or value.startswith("/run/secrets/"), f"{name} {variable}"


def test_no_environment_of_a_pop_or_a_valkey_holds_a_secret(tmp_path: Path) -> None:
    """They lie in files, in a directory of their owner's, which containers get one by one and can read."""
    known = secrets(tmp_path / "env")
    values = [value for name, value in known.items() if name != "COMPOSE_PROJECT_NAME"]
    for name, service in services(known).items():
        if not name.startswith(("origin", "site")):
            assert not any(value in str(service) for value in values), name
    files = sorted((tmp_path / "secrets").iterdir())

    assert [path.name for path in files] == sorted(parsed(COMPOSE)["secrets"])
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().split()


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_images_run_as_nobody_and_check_themselves(path: Path) -> None:
    """The final stage names a user by number, has a health check, and ends on a command in exec form."""
    stages = re.split(r"^FROM ", DOCKERFILES[path], flags=re.M)[1:]
    final = stages[-1]

    assert all(stage.startswith("${PYTHON_IMAGE}") for stage in stages)
    assert re.findall(r"^USER (.*)$", final, re.M) == ["65532:65532"]
    assert re.search(r"^HEALTHCHECK .*CMD \[", final, re.M)
    assert re.search(r"^CMD \[", final, re.M)
    assert "RUN" not in final.split()


def test_a_health_check_ends_before_the_engine_gives_it_up() -> None:
    """The check says by itself that a POP is silent, and has ended before the next one begins."""
    final = DOCKERFILES[DEPLOY / "Dockerfile"]
    given = {name: duration(text) for name, text in re.findall(r"--(interval|timeout)=(\S+)", final)}

    assert TIMEOUT < given["timeout"] < given["interval"]


def locked(path: Path) -> dict[str, str]:
    """Name and version of each line of a lock file; each line has a hash."""
    blocks = re.split(r"\n(?=[a-z])", path.read_text().strip())
    assert all("--hash=sha256:" in block for block in blocks)
    return dict(re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", block).groups() for block in blocks)  # type: ignore[union-attr]


def test_the_lock_file_fits_the_project() -> None:
    """Every dependency, and those of the extras that the image has, is locked at a version that the project takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["embedded"], *extras.get("otel", [])]
    found = locked(DEPLOY / "requirements.txt")

    for one in map(Requirement, wanted):
        assert one.specifier.contains(found[one.name.lower()]), one
    for one in map(Requirement, project["build-system"]["requires"]):
        assert one.specifier.contains(locked(DEPLOY / "build-requirements.txt")[one.name]), one


def test_the_smoke_test_knows_the_chain(chain: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """It disturbs every service that stays up, and asks the ports that are published."""
    known = _module("chain", monkeypatch)
    always = {name for name, service in chain.items() if service["restart"] != "no" and "profiles" not in service}

    assert set(known.SERVICES) == always
    for ports, inside in ((known.PORTS, ("8080", "8000", "9090")), (known.ADMIN_PORTS, ("9900",))):
        for name, (variable, usual) in ports.items():
            bound = [port.split(":") for port in chain[name]["ports"]]
            assert [str(usual)] == [outside for _, outside, to in bound if to in inside], name
            assert f"${{{variable}:-{usual}}}" in COMPOSE


def test_the_smoke_test_tells_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another status and another body are failures, the origin's own bytes are not."""
    known, faults = _module("chain", monkeypatch), _module("smoke_faults", monkeypatch)
    site = faults.Site()
    site.known = {"/a": hashlib.sha256(b"right").hexdigest()}

    assert site.problem("/a?n=1", known.Answer(200, (), b"right")) == ""
    assert site.problem("/a", known.Answer(200, (), b"wrong")) == "another body for /a"
    assert site.problem("/a", known.Answer(502, (), b"right")).startswith("502 for /a")


def _module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DEPLOY))
    __import__(name)
    return sys.modules[name]


# --- systemd

UNIT = (DEPLOY / "edgecache.service").read_text()


def in_the_unit(name: str) -> str:
    """The value of a line of the unit."""
    found = re.search(rf"^{name}=(.*)$", UNIT, re.M)
    assert found is not None, name
    return found[1]


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say, where the program is another that exists."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian package systemd)")
    unit = tmp_path / "edgecache.service"
    unit.write_text(UNIT.replace("/opt/edgecache/bin/edgecache", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)

    assert "edgecache.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_the_unit_fits_the_program() -> None:
    """It leaves time to drain, does not start again what was refused, and looks longer than the program does."""
    settings = Settings(origin=ORIGIN.parse("http://origin"))

    assert in_the_unit("Type") == "notify"
    assert int(in_the_unit("RestartPreventExitStatus")) == BAD_CONFIGURATION
    assert duration(in_the_unit("TimeoutStopSec")) > settings.drain_grace + KILL_AFTER
    assert duration(in_the_unit("WatchdogSec")) > settings.worker_timeout
    assert {in_the_unit("DynamicUser"), in_the_unit("NoNewPrivileges"), in_the_unit("ProtectHome")} == {"yes"}
    assert in_the_unit("ProtectSystem") == "strict"
