"""The network, or one block of it, moved along the gradient of its own loss: what the labels would still change."""
