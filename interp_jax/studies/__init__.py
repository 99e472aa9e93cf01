"""Studies: one folder per paper, built only from the packages below."""
