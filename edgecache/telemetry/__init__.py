"""Counters, access log and spans: recorded by all rooms, exported at the rim."""
