"""Exit 0 if this container's gunicorn answers."""

import sys
import urllib.request

with urllib.request.urlopen("http://127.0.0.1:8000/health/", timeout=2) as answer:
    sys.exit(answer.status != 200)
