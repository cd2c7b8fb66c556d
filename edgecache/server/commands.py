"""The commands: `edgecache serve`, `check-config`, `purge`, … Settings come from the environment, or a file."""

from __future__ import annotations

import argparse
import asyncio
import logging
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from edgecache import __version__
from edgecache.config import system_resources
from edgecache.config.docs import effective_table, reference, sample_file
from edgecache.config.settings import PREFIX, Address, Settings, found_by_machine, load
from edgecache.config.sizing import of_machine, refuse_too_much
from edgecache.config.sources import Source
from edgecache.config.validation import not_served
from edgecache.semantics.errors import BAD_CONFIGURATION, ConfigError
from edgecache.server import machine_store, purge_command, sign_command, signals, store_command
from edgecache.server.config_reload import ended
from edgecache.server.worker_main import DEFAULT_WORKER
from edgecache.telemetry.traceback_limit import TracebackLimit

if TYPE_CHECKING:
    from edgecache.server.supervisor import Supervisor
    from edgecache.valkey.embedded_server import EmbeddedValkey

CONFIG_HELP = "configuration file of EDGECACHE_NAME=value lines (default: EDGECACHE_CONFIG_FILE)"
log = logging.getLogger("edgecache.supervisor")
LOG_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s[%(process)d] %(message)s"
LOG_TIME = "%Y-%m-%dT%H:%M:%S"


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command and return its exit code: 0, 2 for a configuration that refuses the start, else 1."""
    chosen = _parser().parse_args(arguments)
    try:
        code: int = chosen.command(chosen, environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_CONFIGURATION
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgecache",
        description="A self-hosted CDN point of presence (POP): a caching reverse proxy in front of a web service.",
        epilog="Settings are environment variables, or lines of a file; `edgecache check-config` lists them all.",
    )
    parser.add_argument("--version", action="version", version=f"edgecache {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_check_config(commands)
    _add_healthcheck(commands)
    purge_command.add_to(commands)
    sign_command.add_to(commands)
    store_command.add_to(commands)
    _add_worker(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = (
        "Serve EDGECACHE_ORIGIN, or EDGECACHE_SITES, on EDGECACHE_LISTEN. "
        "SIGTERM, SIGQUIT or Ctrl-C drains; SIGHUP reloads the settings."
    )
    serve = commands.add_parser("serve", help="run the POP", description=words)
    serve.add_argument(
        "--demo",
        action="store_true",
        help="if EDGECACHE_ORIGIN is not set, start a small web service behind the POP and print URLs to try",
    )
    serve.add_argument("--config", default="", metavar="FILE", help=CONFIG_HELP)
    serve.add_argument("--worker", default=DEFAULT_WORKER, help=argparse.SUPPRESS)
    serve.set_defaults(command=_serve)


def _add_check_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = (
        "Print every setting with its value and source; exit 2 if `serve` would refuse the configuration. Files named "
        "in settings are read. Addresses, directories and Valkey are tested only with --connect; origins never."
    )
    check = commands.add_parser("check-config", help="print and check all settings", description=words)
    check.add_argument(
        "--connect",
        action="store_true",
        help="also test what `serve` needs: listening addresses, directories, Valkey",
    )
    _add_site_report(check)
    pages = check.add_mutually_exclusive_group()
    pages.add_argument("--markdown", action="store_true", help="print the reference of all settings instead")
    pages.add_argument("--sample", action="store_true", help="print a configuration file with all defaults instead")
    pages.add_argument("--sites-schema", action="store_true", help="print the JSON Schema of EDGECACHE_SITES instead")
    check.add_argument("--config", default="", metavar="FILE", help=CONFIG_HELP)
    check.set_defaults(command=_check_config)


def _add_site_report(check: argparse.ArgumentParser) -> None:
    words = "print instead which rules of EDGECACHE_SITES apply to one request"
    site = check.add_argument_group("rules", words)
    site.add_argument("--site", default="", metavar="HOST", help="the host of the request")
    site.add_argument("--url", default="/", metavar="PATH", help="its path and query, or its whole URL (/)")
    site.add_argument("--method", default="GET", help="its method (GET)")
    site.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="a field; repeatable")
    site.add_argument("--client", default="", metavar="ADDRESS", help="the address of the client")
    site.add_argument("--country", default="", metavar="CODE", help="the country of the client")


def _report_site(chosen: argparse.Namespace, settings: Settings) -> int:
    from edgecache.server import explain

    try:
        request = explain.request_of(chosen.site, chosen.url, chosen.method, chosen.header, chosen.country)
    except ValueError as error:
        raise ConfigError("check-config", f"cannot make that request: {error}") from None
    print(explain.report(settings, request, chosen.client))
    return 0


def _print_sites_schema() -> int:
    import json

    from edgecache.config.sites.parser import json_schema

    print(json.dumps(json_schema(), indent=1))
    return 0


def _add_healthcheck(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    words = "Request /readyz of the POP on EDGECACHE_ADMIN_LISTEN: exit 0 if it is ready, 1 otherwise."
    check = commands.add_parser("healthcheck", help="exit 0 if this POP is ready", description=words)
    check.add_argument("--config", default="", metavar="FILE", help=CONFIG_HELP)
    check.set_defaults(command=_healthcheck)


def _add_worker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    worker = commands.add_parser("_worker")  # no help: only the supervisor starts it
    worker.add_argument("--slot", type=int, required=True)
    worker.add_argument("--listen-fd", type=int, action="append", required=True)
    worker.add_argument("--tls-fd", type=int, action="append", default=[])
    worker.add_argument("--pop-fd", type=int, action="append", default=[])
    worker.add_argument("--control-fd", type=int, required=True)
    worker.add_argument("--worker", default=DEFAULT_WORKER)
    worker.set_defaults(command=_worker)


def _check_config(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    if chosen.markdown or chosen.sample:
        print(reference() if chosen.markdown else sample_file())
        return 0
    if chosen.sites_schema:
        return _print_sites_schema()
    source = Source(environ, chosen.config)
    environ = source.read()
    if chosen.site:
        return _report_site(chosen, load(environ))
    print(effective_table(environ, source.file), flush=True)
    settings = load(environ)
    refuse_too_much(settings, environ, of_machine())
    _log_to_stderr(settings)
    _warn(source, settings)
    names = ", ".join(_tried_at_start(settings))
    if chosen.connect:
        with ExitStack() as undone:
            _rehearse(settings, undone)
    print(f"tried: {names}" if chosen.connect else f"not tried without --connect: {names}", file=sys.stderr)
    return 0


def _tried_at_start(settings: Settings) -> list[str]:
    """Settings that may fail `serve` although they are well-formed."""
    names = ["listen", "admin_listen", "tls_listen", "pop_listen"]
    names = [name for name in names if getattr(settings, name) is not None]
    names += ["regional"] if settings.regional != "off" else []
    names += ["regional_directory"] if settings.regional_directory else []
    return [PREFIX + name.upper() for name in names]


def _rehearse(settings: Settings, undone: ExitStack) -> None:
    """Rehearse the start of `serve` up to its workers; raises ConfigError as that does."""
    from edgecache.storage import regional_probe
    from edgecache.valkey import embedded_server

    if settings.regional == "embedded":
        undone.enter_context(embedded_server.places(settings))
    else:
        asyncio.run(regional_probe.check(settings))
    _admin_listener(settings, undone)
    _listeners(settings, undone)


def _healthcheck(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from edgecache.server import healthcheck

    return healthcheck.run(chosen.config, environ)


def _worker(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from edgecache.server import worker_main

    settings = load(environ)
    _log_to_stderr(settings)
    secure = {"tls": chosen.tls_fd, "pops": chosen.pop_fd}
    worker_main.run(settings, chosen.listen_fd, chosen.control_fd, chosen.worker, **secure)
    return 0


def _serve(chosen: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from edgecache.server.supervisor import Supervisor, listen_or_refuse  # aiohttp: 28 MiB that no worker needs

    system_resources.raise_open_files()
    source = Source(environ, chosen.config)
    environ = source.read()
    with ExitStack() as sockets:
        demo_listener = None
        if chosen.demo and not any(environ.get(PREFIX + name, "").strip() for name in ("ORIGIN", "ORIGINS", "SITES")):
            (demo_listener,) = _opened(sockets, listen_or_refuse("EDGECACHE_ORIGIN", Address("127.0.0.1", 0), 1))
            source.fix("EDGECACHE_ORIGIN", _url(demo_listener))
        settings = load(source.merged())
        refuse_too_much(settings, source.merged(), of_machine())
        source.found = found_by_machine(source.merged())
        _log_to_stderr(settings)
        _warn(source, settings)
        embedded_server = None
        if settings.regional != "off":
            embedded_server = _with_region(settings, source, sockets)
            settings = load(source.merged())
        if settings.store != "off":
            sockets.enter_context(machine_store.prepared(settings, source))
            settings = load(source.merged())
        admin_listener = _admin_listener(settings, sockets)
        listeners = _listeners(settings, sockets)
        site, admin = _url(listeners[0]["listen"]), _url(admin_listener)
        log.info("starting workers=%d listen=%s admin=%s", settings.workers, site, admin)
        announce = partial(_announce, settings, listeners[0], admin, demo=demo_listener is not None)
        supervisor = Supervisor(
            settings,
            source,
            listeners,
            admin_listener,
            worker=chosen.worker,
            embedded=embedded_server,
            on_ready=announce,
        )
        return asyncio.run(_run(supervisor, demo_listener))


def _warn(source: Source, settings: Settings) -> None:
    """Log warnings that do not refuse the start."""
    for name in source.overridden:
        log.warning("%s in %s has no effect: the environment overrides it", name, source.path)
    for line in not_served(settings):
        log.warning("%s", line)
    for line in settings.sites.warnings if settings.sites is not None else ():
        log.warning("%s", line)
    for certificate in ended(settings):
        log.warning("EDGECACHE_TLS_CERTIFICATES: %s has expired, clients will refuse it", certificate)


def _with_region(settings: Settings, source: Source, running: ExitStack) -> EmbeddedValkey | None:
    """Check the regional tier; start the embedded one, which runs until `running` ends."""
    from edgecache.invalidation import log_runs
    from edgecache.storage import regional_probe
    from edgecache.valkey import embedded_server

    server = None
    if settings.regional == "embedded":
        server = running.enter_context(embedded_server.running(settings, log_runs))
        source.fix("EDGECACHE_REGIONAL", server.url)
        source.fix("EDGECACHE_REGIONAL_DIRECTORY", "")  # it is the server's now
    signals.run(regional_probe.check(load(source.merged())))
    return server


def _admin_listener(settings: Settings, sockets: ExitStack) -> socket.socket:
    from edgecache.server.supervisor import listen_or_refuse

    (listener,) = _opened(sockets, listen_or_refuse("EDGECACHE_ADMIN_LISTEN", settings.admin_listen, 1))
    return listener


def _listeners(settings: Settings, sockets: ExitStack) -> list[Mapping[str, socket.socket]]:
    """Listening sockets by kind, for each worker."""
    from edgecache.server.supervisor import listen_or_refuse

    kinds = {"listen": settings.listen, "tls": settings.tls_listen, "pop": settings.pop_listen}
    variables = {"listen": "EDGECACHE_LISTEN", "tls": "EDGECACHE_TLS_LISTEN", "pop": "EDGECACHE_POP_LISTEN"}
    opened = {
        kind: _opened(sockets, listen_or_refuse(variables[kind], where, settings.workers))
        for kind, where in kinds.items()
        if where is not None
    }
    return [{kind: several[number] for kind, several in opened.items()} for number in range(settings.workers)]


def _opened(sockets: ExitStack, listeners: list[socket.socket]) -> list[socket.socket]:
    return [sockets.enter_context(listener) for listener in listeners]


async def _run(supervisor: Supervisor, demo_listener: socket.socket | None) -> int:
    if demo_listener is None:
        return await supervisor.run()
    from edgecache.server import demo

    async with demo.serving(demo_listener):
        return await supervisor.run()


def _log_to_stderr(settings: Settings) -> None:
    level = settings.log_level.upper()
    logging.basicConfig(stream=sys.stderr, level=level, format=LOG_FORMAT, datefmt=LOG_TIME)
    for handler in logging.getLogger().handlers:
        handler.addFilter(TracebackLimit())


def _url(listener: socket.socket, scheme: str = "http") -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{Address(host, port)}"


def _announce(settings: Settings, listeners: Mapping[str, socket.socket], admin: str, *, demo: bool) -> None:
    """Print the addresses of the POP once it is ready."""
    site = _url(listeners["listen"])
    secure = {"tls": "serves  ", "pop": "for POPs"}
    lines = [
        f"edgecache {__version__}, POP {settings.pop}, {settings.workers} workers",
        f"  serves   {site}/",
        *(f"  {words} {_url(listeners[kind], 'https')}/" for kind, words in secure.items() if kind in listeners),
        f"  from     {settings.origin}/" + (" (the demo)" if demo else ""),
        f"  health   {admin}/healthz  {admin}/readyz",
        f"  metrics  {admin}/metrics",
    ]
    if demo:
        from edgecache.server.demo import PAGES

        lines += ["open", *(f"  {site}{path:<12} {meaning}" for path, meaning in PAGES.items())]
    print("\n".join(lines), file=sys.stderr, flush=True)
