"""Interventions: sites, reads, edits, attention suppression, adapters; `network -> network`."""
