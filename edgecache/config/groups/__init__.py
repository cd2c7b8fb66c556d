"""The table of settings by heading: a class for each, whose docstring is the heading in docs/settings.md."""
