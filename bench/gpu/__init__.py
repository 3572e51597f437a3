"""What `bench/gpu_check.py` is made of: the table, the networks, the checks."""
