"""Middleware: one class per file, composed by `proxy/pipeline.py`; none imports another."""
