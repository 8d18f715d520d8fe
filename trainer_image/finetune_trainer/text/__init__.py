"""A row becomes tokens: what a template makes of it, how the chat template frames it, the one encoder.

May import: ``data``, ``storage``, ``process``, ``errors``; no torch.
"""
