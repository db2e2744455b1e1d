"""Small guests for demos, tests and benchmarks: what they boot from, how they run, what they do."""
