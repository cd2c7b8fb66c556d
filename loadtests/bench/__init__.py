"""The parts of bench: what is measured, against whom, and how the figures are taken."""
