"""The judge worker with verdicts that take their time, as real ones do: random ones end before a kill can hit them."""

import sys
import time

from tasks.rl import judging
from tasks.rl.worker import worker_main

VERDICT_SECONDS = 0.1
draw = judging.random_reward


def slow_reward(seed, group, sample):
    time.sleep(VERDICT_SECONDS)
    return draw(seed, group, sample)


if __name__ == "__main__":
    judging.random_reward = slow_reward
    sys.exit(worker_main("judging", judging.run))
