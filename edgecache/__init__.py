"""edgecache: a self-hosted CDN point of presence. `proxy/edge.py` is the path of a request."""

__version__ = "0.1.0"
