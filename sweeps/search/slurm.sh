#!/usr/bin/env bash
# A search on a cluster: every job of the array joins in the same study. On a file system that all see:
#   sbatch sweeps/search/slurm.sh --config sweeps/la2a.yaml --study sweeps/search/architecture.yaml \
#       --storage journal://runs/la2a-architecture/study.log
#SBATCH --job-name=klann-sweep
#SBATCH --output=slurm-%A_%a.log
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=08:00:00
#SBATCH --requeue
# Two minutes before the time is up: trials go back into the queue with their checkpoints.
#SBATCH --signal=B:TERM@120
# With GPUs: --gpus-per-task=1, and one worker for each.
set -euo pipefail
exec .venv/bin/python -m klann_lightning sweep --workers "${SLURM_GPUS_ON_NODE:-$SLURM_CPUS_PER_TASK}" "$@"
