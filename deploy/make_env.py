"""Write the secrets of the compose file into deploy/.env: each once, for its owner only; never committed."""

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


def main(path: Path) -> None:
    """Add what the file does not have yet; what it has stays."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+") as file:
        file.seek(0)
        there = {line.partition("=")[0] for line in file.read().splitlines()}
        if "COMPOSE_PROJECT_NAME" not in there:
            file.write("COMPOSE_PROJECT_NAME=edgecache\n")
        file.writelines(f"{name}={secrets.token_hex(32)}\n" for name in NAMES if name not in there)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / ".env")
