"""Whether a change cost accuracy: baselines, verdicts against them, and how they are told. Imports no torch."""
