"""The decode engine: `Engine`, and the `Request` and `Completion` it exchanges."""

from model.engine.engine import Engine
from model.engine.request import Completion, EngineError, NotFinite, Request

__all__ = ["Completion", "Engine", "EngineError", "NotFinite", "Request"]
