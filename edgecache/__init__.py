"""edgecache: a self-hosted CDN point of presence. Read `edge.py` first: it is the path of a request."""

__version__ = "0.1.0"
