"""What a training and the program that has started it agree on."""

PROGRESS = "progress.jsonl"  # in the run's folder: a line a validation
PARENT = "KLANN_PARENT"  # environment variable: the process without which the training has no purpose
SPENT = "spent.json"  # there too: what the training has cost
