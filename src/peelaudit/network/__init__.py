"""A checkpoint as a decoder: its family, its blocks one at a time, its states, and the sets of low-bit weights."""
