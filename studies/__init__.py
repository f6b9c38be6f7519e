"""Studies of learning, planning, scale, faults, GPU and structure. Each module writes a page of `docs/`."""
