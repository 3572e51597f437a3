"""Statistics on numbers alone: losses on splits, bounds and verdicts, intervals. Without torch."""
