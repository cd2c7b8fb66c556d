"""A CDN on this machine, of real processes: an origin, a shield, edges in several regions, a Valkey for each region."""
