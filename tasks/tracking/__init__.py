"""Experiment tracking, model registry and lineage. Importing this package does not import MLflow, which is slow."""

from tasks.tracking.experiment import Tracker, TrackingError, run
from tasks.tracking.provenance import ProvenanceError, fingerprint, provenance

__all__ = ["ProvenanceError", "Tracker", "TrackingError", "fingerprint", "provenance", "run"]
