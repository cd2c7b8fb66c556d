"""Access control: the checks that decide which clients may read a protected site. `middleware/access.py` runs them."""
