"""Being a process: Kopf's watches, the queue and its workers, health, metrics, logs, settings.

May import: ``cluster`` and ``decide``.
"""
