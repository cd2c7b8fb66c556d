"""Processes: supervisor, workers, sockets, reload, assembly, command line."""
