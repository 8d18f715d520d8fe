"""The order of a job: what a stage is told, its steps from input to report, results that exist already.

At the top: may import everything, and only ``__main__`` imports it.
"""
