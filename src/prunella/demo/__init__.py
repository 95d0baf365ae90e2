"""The demo's own data: English prose and labelled tasks that every Python installation carries."""
