"""What differs between sub-networks: one small file a measure.

`networks` reads masks, `run` takes them matrix by matrix through the measures, `page` shows them.
A measure says in `ABOUT` what it means, where it comes from and what is doubtful about it.
"""
