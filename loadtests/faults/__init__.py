"""What breaks a POP or a chain of them, each figure beside its bound: cuts, floods, reloads, purges over slow ways."""
