"""What turns hidden states into next-token losses, and how it is fitted (docs/method.md, Read-outs)."""
