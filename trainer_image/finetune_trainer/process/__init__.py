"""Being a pod: the console and its logs, the environment, signals, the watchdog, the age of the process.

Knows nothing of models, rows or storage. May import: ``errors``.
"""
