"""A randomised attack on what docs/promises.md says; attack.py says how to start it."""
