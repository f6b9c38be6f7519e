"""Where voxels lie: grids in millimetres, and arrays as they lie in memory (`clicksim.geometry.arrays`)."""

from clicksim.geometry.grid import Grid, Shape, Spacing, check_shape, check_spacing, steps_within

__all__ = ["Grid", "Shape", "Spacing", "check_shape", "check_spacing", "steps_within"]
