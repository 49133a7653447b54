"""What ``scripts/bench`` measures, a module for each group of figures, and what they share.

Nothing but interfaces of the package that stay as they are is used, so that an older commit can be measured with it.
"""
