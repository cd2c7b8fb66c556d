"""The machine's store: records shared by all workers of a POP, in shared memory or on a disk."""
