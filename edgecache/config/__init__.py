"""The table of settings, its types, its sources and its checks. Frozen values come out."""
