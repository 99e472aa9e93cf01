"""Tiny models and toy data, for tests here and in code that uses the package."""
