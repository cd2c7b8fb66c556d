"""The parts of `loadtests/bench.py`: what is measured, against whom, and how the figures are taken."""
