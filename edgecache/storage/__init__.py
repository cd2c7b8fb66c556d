"""Where responses are kept: in a worker's memory (L1), in a store of the machine, in the Valkey of a region (L2)."""
