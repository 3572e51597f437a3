"""The method as code: references, read-outs, what tells which layer is at fault, and the statistics of it all."""
