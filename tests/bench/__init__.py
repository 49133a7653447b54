"""The benchmark behind ``scripts/bench``: one module for each group of figures, and what these modules share.

It uses only interfaces of the package that do not change, so that it can measure an older commit.
"""
