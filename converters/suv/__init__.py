"""SUV by body weight from the headers of a PET series; the entry point is `suv_factor`."""

from converters.suv.suv_headers import SuvError, SuvRule
from converters.suv.suv_rules import Suv, suv_factor

__all__ = ["Suv", "SuvError", "SuvRule", "suv_factor"]
