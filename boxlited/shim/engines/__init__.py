"""The registry of engines: name -> instance. Adding one is one file and one line."""

from boxlited.shim.engines.base import Engine, EngineError
from boxlited.shim.engines.process import ProcessEngine
from boxlited.shim.engines.sandbox import SandboxEngine

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (SandboxEngine(), ProcessEngine())}


def engine_of(spec: dict) -> Engine:  # type: ignore[type-arg]
    """Raises EngineError for a name that nobody registered."""
    name = spec.get("engine")
    engine = ENGINES.get(name) if isinstance(name, str) else None
    if engine is None:
        raise EngineError("unsupported", f"this shim has no engine {name!r}")
    return engine
