"""Converters that turn the data of publishers into a catalog; each defines a `Source`."""
