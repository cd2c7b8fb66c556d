"""The semantics of HTTP (RFC 9110, 9111 and their extensions): pure values and functions."""
