"""A small Wagtail site, run by Wagtail's own environment."""
