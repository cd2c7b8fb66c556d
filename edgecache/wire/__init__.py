"""Bytes ⇄ messages: parsing, framing, limits and deadlines. Nothing in here knows that there is a cache."""
