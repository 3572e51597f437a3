"""How many bits each part of a network is given."""
