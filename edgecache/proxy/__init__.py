"""The path of a request: look up, fetch, store, deliver."""
