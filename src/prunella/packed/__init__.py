"""The packed file: one model in one file, near the size that its zeros allow.

`write` makes it, `read` opens it, `sizes` measures it; `docs/format.md` describes it byte by byte.
Needs numpy and zstandard only.
"""
