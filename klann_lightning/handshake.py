"""What a training and the program that has started it agree on."""

PROGRESS = "progress.jsonl"  # in the run's folder: a line a validation
PARENT = "KLANN_PARENT"  # environment variable: the process without which the training has no purpose
SPENT = "spent.json"  # there too: what the training has cost
LAST = "last.ckpt"  # there too: what a training that was stopped goes on from
SCORES_FILE = "scores.json"  # there too, once it has come to its end
INTERRUPTED = 130  # exit code of a program that was told to stop, as a shell's for Ctrl-C
