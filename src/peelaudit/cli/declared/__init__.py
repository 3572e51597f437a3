"""The commands as typer needs them: their flags and words. What each does is imported as it is run."""
