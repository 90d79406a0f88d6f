"""The engines: every class of this package's modules that has a name. A new one is one new file here."""

import importlib
import os

from boxlited.shim.engines.base import Engine, EngineError


def _found() -> dict[str, Engine]:
    """Imports every module beside this one; in the order of their names, so the same everywhere."""
    for file in sorted(os.listdir(os.path.dirname(__file__))):
        module, extension = os.path.splitext(file)
        if extension == ".py" and not module.startswith("_"):
            importlib.import_module(f"{__name__}.{module}")
    return {engine.name: engine() for engine in Engine.__subclasses__() if engine.name}


ENGINES: dict[str, Engine] = _found()


def engine_of(spec: dict) -> Engine:  # type: ignore[type-arg]
    """Raises EngineError for a name that no engine has."""
    name = spec.get("engine")
    engine = ENGINES.get(name) if isinstance(name, str) else None
    if engine is None:
        raise EngineError("unsupported", f"this shim has no engine {name!r}")
    return engine
