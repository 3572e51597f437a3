"""Linear algebra that knows nothing of networks: moments, factorisations, spectra."""
