"""Converters: one file per source, each ending in one function that writes into a catalog."""
