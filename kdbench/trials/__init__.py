"""What a plan decides about one training, as values: the trial, its teacher, and the key that names it. No torch.

Import from the modules; this package imports nothing by itself.
"""
