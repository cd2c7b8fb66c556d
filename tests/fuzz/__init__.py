"""The fuzz target (`make fuzz`): mutated and generated messages against the product, without sockets and over them.

`mutate.py` makes inputs out of the byte cases in `tests/hostile/tables/` (the seed corpus) and of a grammar; an input
that makes the product behave in a way not seen before joins the corpus. `parse_level.py` and `socket_level.py` judge.
"""
