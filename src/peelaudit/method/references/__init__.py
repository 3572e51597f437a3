"""Reference networks: what each block is fitted to, and how, in closed form or by gradient."""
