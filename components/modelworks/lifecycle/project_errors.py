"""Exceptions of a project's own code, as errors that name the user's file and line."""

from __future__ import annotations

import traceback
from pathlib import Path

from modelworks.errors import ModelworksError


def project_error(error: Exception | SystemExit, folder: Path, doing: str) -> ModelworksError:
    """An exception of the user's code as an error that names their file and line."""
    if isinstance(error, SyntaxError) and error.filename:
        return ModelworksError(f"{error.filename}:{error.lineno}: {error.msg}")
    frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).is_relative_to(folder)]
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(folder / "model.py")
    text = str(error).strip() or "no message"
    return ModelworksError(
        f"{place}: {type(error).__name__} while the model {doing}: {text}", fix=_project_fix(error, folder)
    )


def _project_fix(error: Exception | SystemExit, folder: Path) -> str:
    """The fix of mistakes that a project makes when it is moved here; otherwise empty."""
    if isinstance(error, SystemExit):
        return (
            'It ends the process, as a script does: have it below `if __name__ == "__main__":`, or raise another '
            "exception there."
        )
    if isinstance(error, EOFError):
        return "Nobody answers input() in a run: state the value in `parameters` of the spec, or write it there."
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if (folder / f"{top}.py").is_file() or (folder / top).is_dir():
            return f"{top} is next to model.py: import it with a dot, as in `from .{error.name} import ...`."
        return f"Install it as a package of uv.lock (`uv add {top}`), or take the import out."
    if isinstance(error, FileNotFoundError) and not Path(str(error.filename or "/")).is_absolute():
        return (
            f"A relative path is not looked up in the project: use Path(__file__).parent / {str(error.filename)!r}, "
            "and have the file in the folder of model.py."
        )
    return ""
