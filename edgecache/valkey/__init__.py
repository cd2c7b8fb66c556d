"""A Valkey client with deadlines. Knows nothing of HTTP."""
