"""Self-contained HTML pages: one file, no network, all text from data escaped."""
