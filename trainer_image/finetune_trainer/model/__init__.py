"""A model and what is done to it whole: load, adapters, head, attention, device, operations.

May import: ``prepare`` and what is below it.
"""
