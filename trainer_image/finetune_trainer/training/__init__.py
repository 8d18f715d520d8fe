"""The training loop and its parts: plan, batches and their layout, optimizer, state.

May import: ``evaluation`` (validation is the same evaluator) and what is below it.
"""
