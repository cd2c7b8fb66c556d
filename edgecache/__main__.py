"""`python -m edgecache`: the command line."""

import sys

from edgecache.cli import main

sys.exit(main())
