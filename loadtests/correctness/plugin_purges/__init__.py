"""Purges by the own, unmodified code of what sends them."""
