"""Print an environment file with fresh secrets for deploy/docker-compose.yml; the file is never committed."""

import secrets

print("COMPOSE_PROJECT_NAME=edgecache")
for name in (
    "EDGECACHE_ADMIN_TOKEN",
    "EDGECACHE_REGIONAL_KEY",
    "VALKEY_PASSWORD",
    "BLOG_SECRET",
    "BLOG_PASSWORD",
    "EDITOR_TOKEN",
    "GRAFANA_PASSWORD",
):
    print(f"{name}={secrets.token_hex(32)}")
