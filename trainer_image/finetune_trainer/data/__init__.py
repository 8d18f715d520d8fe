"""Files become rows, and rows are split into train, validation and test. Nothing here knows templates or tokens.

May import: ``storage``, ``process``, ``errors``; no torch.
"""
