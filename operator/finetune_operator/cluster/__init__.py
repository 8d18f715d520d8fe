"""Reads and writes the cluster: what a job looks like now, and the requests that a plan asks for.

``protocol.py`` says what is needed of a cluster, ``gateway.py`` is the only file that talks to an API server.
May import: ``decide``.
"""
