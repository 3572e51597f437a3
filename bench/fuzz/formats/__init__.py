"""The formats, each with sound files, its changes and its uses."""
