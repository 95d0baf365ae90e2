"""The formats of a table of examples, one file each; `prunella.data.readers` chooses."""
