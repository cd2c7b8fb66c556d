"""What HTTP means (RFC 9110, 9111 and their extensions): pure values and functions."""
