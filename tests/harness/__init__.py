"""The test harness: an origin double, a raw client, a fault proxy, a clock, and a POP in process.

Only what starts, stands in for or observes a POP imports the product. Bytes on the wire are what the tests speak of;
`wire.py` reads them with a small strict reader of its own, so that the product's parser is never its own judge.
"""
