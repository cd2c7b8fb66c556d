"""A small blog, as Django's own documentation would have one written; it knows nothing of edgecache."""
