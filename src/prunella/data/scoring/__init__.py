"""The metrics of each kind of task, one file for each family; `prunella.data.metrics` chooses.

A file here has, for each of its kinds, a function from gold and predictions of n examples to the
kind's statistics: for each metric a function of counts.
"""
