"""The blog's own settings, and what a site behind a CDN adds to them."""

import os

from blog_site.settings import *  # noqa: F403 (Django's way to extend settings)
from blog_site.settings import DATABASES, MIDDLEWARE

ALLOWED_HOSTS = ["*"]  # a POP answers only for EDGECACHE_HOSTS; this demonstration answers any
ROOT_URLCONF = "demo_site.urls"
WSGI_APPLICATION = "demo_site.wsgi.application"
MIDDLEWARE = ["demo_site.tags.SurrogateKeys", *MIDDLEWARE]
ORIGIN_NAME = os.environ.get("ORIGIN_NAME", "origin")
EDITOR_TOKEN = os.environ.get("EDITOR_TOKEN", "")
# Both origins share one database: readers and one writer at a time, also after one of them was killed.
DATABASES["default"]["OPTIONS"] |= {
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    "transaction_mode": "IMMEDIATE",
}
