"""A chain of POPs on one machine, with the delays of a WAN between them, and what breaks it."""
