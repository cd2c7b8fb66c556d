"""Access: the checks that decide which clients may read what a site protects. `middleware/access.py` runs them."""
