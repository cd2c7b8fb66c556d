"""Sites and rules: the TOML text of `EDGECACHE_SITES`, read into frozen values and checked as a whole."""
