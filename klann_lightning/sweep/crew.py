"""The workers of one machine, from their start to the study's end or a Ctrl-C."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from multiprocessing.context import SpawnProcess

import torch

from klann_lightning.fitting import told_to_stop
from klann_lightning.manners import tell
from klann_lightning.sweep.plan import Plan
from klann_lightning.sweep.worker import work


def lead(plan: Plan, workers: int) -> tuple[bool, int]:
    """Run the workers; whether somebody has told them to stop, and how many ended by an error."""
    places = worker_environments(workers)
    spares = plan.study.retries * workers
    with told_to_stop() as told:
        crew = [_worker(plan, place, index) for index, place in enumerate(places, 1)]
        while any(process.is_alive() for process in crew) and not told:
            time.sleep(0.2)
            for index, process in enumerate(crew):
                if spares and not told and (process.exitcode or 0) < 0:
                    name = signal.Signals(-(process.exitcode or 0)).name
                    tell(f"{process.name} was ended by {name}; another takes its place")
                    crew[index] = _worker(plan, places[index], index + 1)
                    spares -= 1
        for process in crew:
            if told and process.is_alive():
                process.terminate()
        for process in crew:
            process.join()
    return bool(told), sum(process.exitcode != 0 for process in crew)


def worker_environments(workers: int) -> list[dict[str, str]]:
    """For each worker's trainings: its share of the processor's threads, and a GPU where there are any."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // workers)))
    every = ",".join(str(index) for index in range(torch.cuda.device_count()))
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",") if gpu]
    return [
        {
            "OMP_NUM_THREADS": threads,
            **({"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}),
        }
        for index in range(workers)
    ]


def _worker(plan: Plan, environment: dict[str, str], index: int) -> SpawnProcess:
    context = multiprocessing.get_context("spawn")  # a fork would take over torch's threads by halves
    process = context.Process(
        target=work, args=(replace(plan, environment=environment),), name=f"worker {index}"
    )
    process.start()
    return process
