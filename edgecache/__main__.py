"""`python -m edgecache`: the command line."""

import sys

from edgecache.server.cli import main

sys.exit(main())
