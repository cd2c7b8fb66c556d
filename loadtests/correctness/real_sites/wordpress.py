"""WordPress as Debian packages it, with a MariaDB of its own, by PHP's own server: a copy in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loadtests.lab.processes import Missing, Process, end, free_port, last_line

INSTALLED = Path("/usr/share/wordpress")
THEME = "wp-content/themes/twentytwentythree"
PACKAGES = "wordpress wordpress-theme-twentytwentythree php-mysql mariadb-server"
PROGRAMS = ("php", "mariadbd", "mariadb-install-db")
HOST = "blog.example.org"
POSTS = 120
USER, PASSWORD = "editor", secrets.token_hex(12)
STARTS_WITHIN = 60.0  # seconds
CONFIG = """<?php
define('DB_NAME', 'wp'); define('DB_USER', 'root'); define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:{socket}'); define('DB_CHARSET', 'utf8mb4');
define('WP_DEFAULT_THEME', 'twentytwentythree');
define('WP_HOME', 'http://{host}'); define('WP_SITEURL', 'http://{host}');
define('DISABLE_WP_CRON', true); define('WP_HTTP_BLOCK_EXTERNAL', true); define('AUTOMATIC_UPDATER_DISABLED', true);
foreach (['AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT', 'SECURE_AUTH_SALT',
  'LOGGED_IN_SALT', 'NONCE_SALT'] as $name) {{ define($name, '{secret}' . $name); }}
$table_prefix = 'wp_';
if (!defined('ABSPATH')) {{ define('ABSPATH', __DIR__ . '/'); }}
require_once ABSPATH . 'wp-settings.php';
"""
ROUTER = """<?php
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
$file = __DIR__ . $path;
if (is_dir($file)) { $file = rtrim($file, '/') . '/index.php'; }
if ($path !== '/' && is_file($file)) {
  if (!str_ends_with($file, '.php')) { return false; }
  $_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = substr($file, strlen(__DIR__));
  chdir(dirname($file)); require $file; return true;
}
$_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = '/index.php';
require __DIR__ . '/index.php';
"""
FILL = """<?php
define('WP_INSTALLING', true);
$_SERVER['HTTP_HOST'] = '{host}'; $_SERVER['REQUEST_URI'] = '/'; $_SERVER['SERVER_PROTOCOL'] = 'HTTP/1.1';
require '{root}/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';
function wp_new_blog_notification() {{}}
wp_install('A blog', '{user}', 'editor@example.org', true, '', '{password}');
global $wp_rewrite;
$wp_rewrite->set_permalink_structure('/%year%/%postname%/');
flush_rewrite_rules(false);
for ($number = 0; $number < {posts}; $number++) {{
  wp_insert_post(['post_title' => "Post $number", 'post_name' => "post-$number", 'post_status' => 'publish',
    'post_author' => 1, 'post_date' => '2024-01-01 10:00:00',
    'post_content' => str_repeat("Paragraph $number of a post. ", 60)]);
}}
foreach (get_posts(['numberposts' => -1]) as $post) {{ echo get_permalink($post), "\\n"; }}
"""


@contextmanager
def running(folder: Path) -> Iterator[tuple[Process, list[str]]]:
    """A WordPress with its posts, and the targets of these, while the block runs."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent or not (INSTALLED / THEME).is_dir():
        raise Missing(f"WordPress is not installed (Debian: apt-get install {PACKAGES})")
    root, place = folder / "www", folder / "db.sock"
    shutil.copytree(INSTALLED, root, symlinks=False, ignore_dangling_symlinks=True)
    config = root / "wp-config.php"
    config.unlink(missing_ok=True)
    config.write_text(CONFIG.format(socket=place, host=HOST, secret=secrets.token_hex(24)))
    (root / "router.php").write_text(ROUTER)
    with database(folder, place):
        (folder / "fill.php").write_text(FILL.format(host=HOST, root=root, user=USER, password=PASSWORD, posts=POSTS))
        urls = _run(["php", "-d", "memory_limit=512M", str(folder / "fill.php")]).decode().split()
        targets = [url.removeprefix(f"http://{HOST}") for url in urls if url.startswith(f"http://{HOST}/")]
        if len(targets) < POSTS:
            raise Missing(f"WordPress has {len(targets)} posts, not {POSTS}")
        port = free_port()
        serve = [
            "php",
            "-d",
            "display_errors=0",
            "-d",
            "log_errors=1",
            "-d",
            "error_log=/dev/stderr",
            "-S",
            f"127.0.0.1:{port}",
            "-t",
            str(root),
            str(root / "router.php"),
        ]
        environment = {"PHP_CLI_SERVER_WORKERS": "4"}
        with Process("wordpress", serve, port, "/readme.html", folder, environment, status=499) as server:
            yield server, targets


@contextmanager
def database(folder: Path, place: Path) -> Iterator[None]:
    """A MariaDB on a socket, with an empty database."""
    files = folder / "db"
    user = [f"--user={os.environ.get('USER', 'root')}"] if os.getuid() == 0 else []
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={files}", *user]
    _run([*install, "--auth-root-authentication-method=normal", "--skip-test-db"])
    serve = ["mariadbd", "--no-defaults", f"--datadir={files}", f"--socket={place}", "--skip-networking", *user]
    with (folder / "db.err").open("ab") as errors:
        process = subprocess.Popen(serve, stdout=errors, stderr=errors, start_new_session=True)
    try:
        _wait_for(place)
        _run(["mariadb", "--no-defaults", f"--socket={place}", "-uroot", "-e", "CREATE DATABASE wp"])
        yield
    finally:
        end(process)


def _wait_for(place: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(place)) == 0:
                return
        time.sleep(0.1)
    raise Missing("MariaDB does not start")


def _run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False, timeout=180)
    if done.returncode:
        raise Missing(f"{command[0]} failed: {last_line(done.stderr) or last_line(done.stdout)}")
    return done.stdout
