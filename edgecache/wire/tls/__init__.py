"""TLS contexts and the TLS listener."""
