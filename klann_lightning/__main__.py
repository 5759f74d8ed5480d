from klann_lightning.cli import run

run()
