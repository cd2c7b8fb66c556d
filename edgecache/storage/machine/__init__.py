"""The machine's store: records that all workers of a POP share, in shared memory or on a disk."""
