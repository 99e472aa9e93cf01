"""Judges: models that label or score text, behind an endpoint or on this machine."""
