"""Settings every test starts with: no telemetry, no network look-ups, threads that do not spin, no timed examples."""

import os

from hypothesis import HealthCheck, settings

for _name, _value in {
    "OMP_WAIT_POLICY": "PASSIVE",
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "TRITON_INTERPRET": "1",  # before any kernel's module is imported
}.items():
    os.environ.setdefault(_name, _value)

# An example that waits for a busy machine is no fault: pytest's own limit is enough against one that hangs.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
