"""A container image for Grand Challenge: its entry point, its build context, and a check of both."""
