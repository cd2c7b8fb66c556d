"""Load tests of a chain: what is asked, how each answer is verified, and what the figures say."""
