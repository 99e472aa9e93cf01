"""Markup, style and scripts of the dashboard, carried as data."""
