"""One door to saving and resuming: states as files below output.uri, written beside the training.

May import: ``training`` and what is below it.
"""
