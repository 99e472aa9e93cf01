"""Style and script that every report starts with, carried as data."""
