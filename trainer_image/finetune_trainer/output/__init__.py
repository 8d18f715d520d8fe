"""What lies at output.uri: who owns it, the exported model, the files beside it, the manifest.

May import: ``checkpoint`` and what is below it.
"""
