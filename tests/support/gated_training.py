"""A training that stops at a gate: python gated_training.py RUN GATE [resume], GATE as in "loss:30" or "none".

At the gate it prints the gate and waits for a line on stdin; under torchrun, whose processes share one stdin, it waits
for a signal. It lists its validations in RUN/validations.txt, and ends as the command line does.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from shared.errors import Interruption
from train.loop import training
from train.loop.distributed import Workers, started_by_torchrun
from train.loop.interrupts import Interrupts
from train.loop.run import Run
from train.loop.schedule import Schedule
from train.loop.scores import Score, Scores, to_json
from train.loop.training import Better, Plan, Training, fit

training.LOG_EVERY, training.VALIDATE_EVERY = 1, 10
OUT, GATE, RESUME = Path(sys.argv[1]), sys.argv[2], "resume" in sys.argv
signalled, signals = os.pipe()
os.set_blocking(signals, False)
signal.set_wakeup_fd(signals)  # each signal that is caught writes a byte


def pass_gate(name: str) -> None:
    if name != GATE:
        return
    # One write: `print` makes two of it under torchrun, which runs Python unbuffered, and two processes' lines mix.
    os.write(1, f"{name}\n".encode())
    if started_by_torchrun():
        os.read(signalled, 1)
    else:
        sys.stdin.readline()


class Gated(Training):
    def __init__(self) -> None:
        pass_gate("start")
        self.workers = Workers(torch.device("cpu"))
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.run = Run(OUT, {}, RESUME, workers=self.workers)
        self.plan = Plan(Schedule(40, 0.05, 1), seed=1, better=Better("score", "max"))
        self.validations = 0

    def batches(self, start):
        for step in range(start, self.plan.steps):
            pass_gate(f"batches:{step}")
            whole = np.random.default_rng(step).normal(size=(6, 4)).astype(np.float32)
            yield torch.from_numpy(self.workers.share(whole))

    def loss(self, x, step):
        self.model.train()
        out = self.model(x + self.workers.rand_like(x))
        pass_gate(f"loss:{step}")
        return out.square().mean(), {}

    def validate(self):
        self.model.eval()
        self.validations += 1
        pass_gate(f"validate:{self.validations}")
        with torch.no_grad():
            score = -float(self.model(torch.ones(2, 4)).square().mean())
        if self.workers.leads:
            with (OUT / "validations.txt").open("a") as file:
                file.write(f"{score}\n")
        return Scores([Score("score", score)])

    def result(self, scores):
        pass_gate("result")
        return to_json(scores)


try:
    with Interrupts() as interrupts:
        print(fit(Gated(), interrupts), flush=True)
except Interruption as stop:
    if str(stop):
        print(stop, file=sys.stderr)
    sys.exit(stop.status)
except KeyboardInterrupt:
    sys.exit(130)
