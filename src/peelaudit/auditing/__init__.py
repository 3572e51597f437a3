"""One audit, from settings to report."""
