"""The admin API: health, metrics, purges."""
