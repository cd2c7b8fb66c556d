"""Hits for request heads that were seen before, or that resemble one: answered without parsing."""
