"""Bytes in and out: stores with one client a role, the hub, and what a model's or dataset's URI brings to the disk.

May import: ``process``, ``errors``. Only ``s3`` knows boto3, only ``hub`` the hub's client, and neither is imported
before a URI asks for it.
"""
