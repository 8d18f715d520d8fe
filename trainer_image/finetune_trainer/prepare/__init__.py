"""Rows become a prepared folder: the passes over the files, and the folder that train reads.

May import: ``text``, ``data``, ``storage``, ``process``, ``errors``; no torch.
"""
