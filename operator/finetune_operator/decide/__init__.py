"""Decides: what stands in the cluster goes in as values, what shall happen comes out as values.

Begin at ``reconcile.py``. Pure: no clock, no client, no memory. May import: ``finetune_api`` alone.
"""
