"""Wagtail's own cache invalidation, unmodified: `wagtail_site.py LOCATION URL...`, in Wagtail's environment."""

import sys

import django
from django.conf import settings

BACKEND = "wagtail.contrib.frontend_cache.backends.HTTPBackend"
settings.configure(
    SECRET_KEY="-", USE_I18N=False, WAGTAILFRONTENDCACHE={"edgecache": {"BACKEND": BACKEND, "LOCATION": sys.argv[1]}}
)
django.setup()

from wagtail.contrib.frontend_cache.utils import purge_urls_from_cache  # noqa: E402

purge_urls_from_cache(sys.argv[2:])
