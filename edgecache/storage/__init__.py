"""The stores of responses: the memory of a worker (L1) and the Valkey of a region (L2)."""
