"""The purge log: append, consume, replicate; which stored responses are still valid."""
