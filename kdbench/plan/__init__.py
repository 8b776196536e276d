"""What will be trained: the plan, its cohorts and tasks, and what they cost. Imports no torch.

Import from the modules; this package imports nothing by itself.
"""
