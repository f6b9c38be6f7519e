"""Voxel positions: grids in millimetres, and the memory layout of arrays (`clicksim.geometry.arrays`)."""

from clicksim.geometry.grid import Grid, Shape, Spacing, check_shape, check_spacing, steps_within

__all__ = ["Grid", "Shape", "Spacing", "check_shape", "check_spacing", "steps_within"]
