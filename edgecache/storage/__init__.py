"""Where responses are kept: in the memory of a worker (L1) and in the Valkey of a region (L2)."""
