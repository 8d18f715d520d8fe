"""Prompt templates: the library, what a template needs of a row, and rendering in a child process. No torch here."""
