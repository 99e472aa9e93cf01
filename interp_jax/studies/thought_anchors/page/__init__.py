"""The page of the thought-anchors report: body, style and scripts, carried as data."""
