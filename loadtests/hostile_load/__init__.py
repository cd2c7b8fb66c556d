"""The parts of `loadtests/hostile_load.py`: who attacks, who is served meanwhile, and what is measured."""
