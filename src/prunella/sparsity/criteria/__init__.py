"""The criteria, one file each; a file's name is the value of `score` that chooses it."""
