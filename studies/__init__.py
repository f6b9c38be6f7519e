"""Studies: what is learnt, planned and measured beside speed. Each module writes a page of `docs/`."""
