"""`isthmus ARGUMENTS`, whose trainings log every step: torchrun starts this in tests/training/test_team.py."""

import isthmus
from cloud.training import run

run.LOG_EVERY = 1
isthmus.main()
