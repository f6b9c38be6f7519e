"""Catalogs and sources on object storage: places, the cache of their images, and the index of a pushed catalog."""
