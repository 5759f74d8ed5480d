#!/usr/bin/env bash
# One training on a cluster. On a file system that all nodes see:
#   sbatch --nodes 2 --ntasks-per-node 4 --gpus-per-node 4 sweeps/slurm.sh --config sweeps/la2a.yaml \
#       --trainer.num_nodes 2 --trainer.devices 4 --trainer.strategy ddp
#SBATCH --job-name=klann-fit
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --requeue
# Two minutes before the time is up: the training keeps what it has, and the job goes back into the queue.
#SBATCH --signal=USR1@120
set -euo pipefail
exec srun .venv/bin/python -m klann_lightning fit "$@" --resume
