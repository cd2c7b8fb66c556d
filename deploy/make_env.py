"""Write the secrets of the compose file: each once into deploy/.env, for its owner only, and into deploy/secrets/.

Of deploy/secrets/ compose mounts each file into the containers that need it. They run as other users, so that the files
are readable; the directory is its owner's only. Nothing of it is ever committed.
"""

import os
import secrets
import sys
from pathlib import Path

NAMES = (
    "EDGECACHE_ADMIN_TOKEN",
    "EDGECACHE_REGIONAL_KEY",
    "EDGECACHE_POP_SECRET",
    "VALKEY_PASSWORD",
    "BLOG_SECRET",
    "BLOG_PASSWORD",
    "EDITOR_TOKEN",
    "GRAFANA_PASSWORD",
)
REGIONS = ("eu", "us", "shield")  # of each the Valkey is valkey-REGION


def main(path: Path) -> None:
    """Add what the file does not have yet; what it has stays. The files beside it follow it."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+") as file:
        file.seek(0)
        there = {line.partition("=")[0] for line in file.read().splitlines()}
        if "COMPOSE_PROJECT_NAME" not in there:
            file.write("COMPOSE_PROJECT_NAME=edgecache\n")
        file.writelines(f"{name}={secrets.token_hex(32)}\n" for name in NAMES if name not in there)
    known = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    directory = path.parent / "secrets"
    directory.mkdir(mode=0o700, exist_ok=True)
    for name, text in contents(known).items():
        file_of_one = directory / name
        file_of_one.write_text(text + "\n")
        file_of_one.chmod(0o644)


def contents(known: dict[str, str]) -> dict[str, str]:
    """What lies in each file of deploy/secrets/."""
    password = known["VALKEY_PASSWORD"]
    urls = {region: f"valkey://:{password}@valkey-{region}:6379" for region in REGIONS}
    found = {
        "admin-token": known["EDGECACHE_ADMIN_TOKEN"],
        "regional-key": known["EDGECACHE_REGIONAL_KEY"],
        "pop-secret": known["EDGECACHE_POP_SECRET"],
        "valkey-password": password,
        "grafana-password": known["GRAFANA_PASSWORD"],
    }
    for region, url in urls.items():
        found[f"regional-{region}"] = url
        found[f"peers-{region}"] = ",".join(f"{other}={urls[other]}" for other in REGIONS if other != region)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / ".env")
