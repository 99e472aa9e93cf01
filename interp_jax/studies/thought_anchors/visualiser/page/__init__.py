"""Markup, style and scripts of the visualiser's page, carried as data."""
