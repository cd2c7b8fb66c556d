"""Whom to ask: pools, load balancing, health, retries, parents, and the protocol between POPs."""
