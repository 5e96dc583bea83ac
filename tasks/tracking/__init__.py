"""Experiment tracking, model registry and lineage. Importing this package does not import MLflow, which is slow."""

from tasks.tracking.experiment import Tracker, run
from tasks.tracking.provenance import ProvenanceError, fingerprint, provenance
from tasks.tracking.store import TrackingError

__all__ = ["ProvenanceError", "Tracker", "TrackingError", "fingerprint", "provenance", "run"]
