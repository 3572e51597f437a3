"""Audits within the training loops of other libraries, each in a module of its own that imports it."""
