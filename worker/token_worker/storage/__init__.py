"""Token storage in the layout that Acra uses."""
