"""The parts of hostile-load: who attacks, who is served meanwhile, and what is measured."""
