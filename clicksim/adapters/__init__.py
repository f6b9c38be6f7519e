"""Guidance inside other libraries' pipelines, one file per library.

No file imports the library that it serves: it reads arrays and affines, and gives back what it was given in kind.
So neither is needed to install or to import clicksim.
"""
