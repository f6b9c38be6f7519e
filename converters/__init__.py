"""Converters: what brings the collection of a publisher into a catalog; each ends in a `Source`."""
