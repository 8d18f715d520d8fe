"""The metrics: each a frozen value with its definition and source; ``registry.py`` has them by name. Pure, no torch.

May import: ``evaluation.rows`` and what is below ``evaluation``.
"""
