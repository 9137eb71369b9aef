"""`isthmus ARGUMENTS`, whose trainings log every step: torchrun starts this in tests/train/loop/test_distributed.py."""

import isthmus
from train.loop import training

training.LOG_EVERY = 1
isthmus.main()
