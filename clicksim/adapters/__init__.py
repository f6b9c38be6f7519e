"""Guidance inside other libraries' pipelines, one file per library.

No file imports the library that it serves. It reads arrays and affines, and returns the type that it was given.
So clicksim installs and imports without these libraries.
"""
