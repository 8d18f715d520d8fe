"""The one evaluator: questions, likelihoods, decoding, results and their statistics.

May import: ``model`` and what is below it.
"""
