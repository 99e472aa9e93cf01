"""Aggregates over traces: importance by category, agreement between methods, and their controls."""
