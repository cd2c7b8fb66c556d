"""What purge-load measures: how exact purges are, how soon they are known, and what they cost."""
