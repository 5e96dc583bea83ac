"""The work of each stage; `python -m tasks.<stage>` runs one."""

import os

# Threads that spin while they wait slow each other down ten-fold when several programs share the cores, as rollout,
# judge and learner do. OpenMP reads this when torch is imported, hence here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
