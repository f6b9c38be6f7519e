"""SUV by body weight from the headers of a PET series; the entry point is `suv_factor`."""

from converters.suv.suv_headers import Rule, SuvError
from converters.suv.suv_rules import Suv, suv_factor

__all__ = ["Rule", "Suv", "SuvError", "suv_factor"]
