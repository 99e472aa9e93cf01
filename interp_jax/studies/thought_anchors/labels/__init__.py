"""What each sentence of a trace does and what it builds on: by a judge, or by rules."""
