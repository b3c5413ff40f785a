"""What a run can train on, one kind of data a file; `open_source` (in `mllmseg/data/training.py`) opens one by name."""
