"""Experiments as data: models x tasks x seeds, a JSON file a run.

A matrix is a YAML file of this folder; `tasks.yaml` says where the rows of the tasks are. A cell is
one model on one task with one seed: `transfer`, for int8 `quantize`, then `evaluate` and `pack`.
"""
