"""What was trained, to take home: the weights that trials leave, networks made of them, and files for other programs.

Import from the modules; this package imports nothing by itself.
"""
