"""TLS on both sides: contexts, reads, and why handshakes fail."""
