"""A back end that is a Python function, in this process."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server.backend.answers import Failed, Refused, Reply, why
from server.core.errors import Error, StartError
from server.wire.codec import JSON


class Function:
    """One that is not `async` runs in a thread. `path`: where it stands in the configuration; StartError if it cannot
    be imported."""

    def __init__(self, path: str, function: str, concurrency: int) -> None:
        self._function = _load(f"configuration: {path}.function", function)
        self._threads: ThreadPoolExecutor | None = None
        if not _is_async(self._function):
            # As many as may be asked at a time, so that no question waits in the pool while its time runs.
            self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix=path)

    async def ask(self, question: Any) -> Reply:
        """The question is the function's own: it may change it. What it returns is a reply of status 200; what it
        refuses (`Refused`), one with problem+json. `Failed` for anything else that it raises."""
        try:
            if self._threads is None:
                answer = await self._function(question)
            else:
                # Not what it raises: a SystemExit would end the server, a StopIteration could not be handed over.
                loop = asyncio.get_running_loop()
                answer = await loop.run_in_executor(self._threads, _outcome, self._function, question)
                if isinstance(answer, _Raised):
                    raise answer.error
        except Refused as refusal:
            return _refused(refusal)
        except GeneratorExit:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Failed(why(error)) from None
        except BaseException as error:
            raise Failed(why(error)) from None
        return Reply(200, _encoded(answer))

    async def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


class _Raised:
    """What a function in a thread has raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _outcome(function: Callable[[Any], Any], question: Any) -> Any:
    try:
        return function(question)
    except BaseException as error:
        return _Raised(error)


def _refused(refusal: Refused) -> Reply:
    problem = {"reason": str(refusal.reason), "details": refusal.details}
    status = refusal.status if 400 <= refusal.status < 500 else 422
    return Reply(status, _encoded(problem), "application/problem+json")


def _encoded(answer: Any) -> bytes:
    try:
        return b"" if answer is None else JSON.encode(answer)
    except (Error, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Failed(f"its answer is not JSON: {type(error).__name__}") from None


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _load(path: str, name: str) -> Callable[[Any], Any]:
    module, _, attribute = name.partition(":")
    try:
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise StartError(f"{path}: {name}: {error}") from None
    if not callable(function):
        raise StartError(f"{path}: {name} is not a function")
    return function
