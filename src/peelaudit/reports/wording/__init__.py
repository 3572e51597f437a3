"""How figures, verdicts and foreign texts are put into words, wherever they are shown."""
