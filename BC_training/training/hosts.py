"""The hosts of a run, one process on each: what they compare, gather and agree upon, and how one
that fails ends all.

Arrays go through JAX's collectives; this is for words. Every host keeps a connection to a port of
host 0. A host that dies closes its connection, so the others know at once which it was, whereas in
a collective they would wait for it for ever, and JAX's coordinator would end them with a stack
trace that names nobody.
"""

import _thread
import contextlib
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from BC_training.common.config import SystemConfig
from BC_training.training.host_exit import (
    GRACE_S,
    leave_after,
    leave_at_once,
    leave_soon,
    replace_aborts,
)
from BC_training.training.host_hub import GONE, Hub
from BC_training.training.host_place import Place, connect, find_place, listen
from gameplay_pipeline.plumbing.command import ending_signals
from gameplay_pipeline.plumbing.errors import UserError

INTERRUPTED = 130

JAX_MEETING_S = 60
"""Seconds that JAX's processes wait for one another, which have met before."""


class Stopped(KeyboardInterrupt):
    """All hosts have stopped at one step, and what they have learned is in a checkpoint."""


class Hosts:
    """One host alone; and what several, which are `Together`, can do as well."""

    rank, count = 0, 1
    ended: "End | None" = None
    """How another host ended, which ends this one too."""

    @property
    def is_first(self) -> bool:
        """Whether this host is the one that prints, logs and writes."""
        return self.rank == 0

    def name(self, rank: int) -> str:
        """What messages call a host."""
        return f"host {rank}"

    def gather(self, value: Any) -> list[Any]:
        """The values of all hosts, by rank; waits for the last one.

        Args:
            value: what JSON holds.
        """
        return [value]

    def gather_results(self, do: Callable[[], Any]) -> list[Any]:
        """What a function returns on every host, by rank, which JSON holds. What it raises on one
        host, all raise."""
        return [do()]

    def must_stop(self, wanted: bool) -> bool:
        """Whether to stop, which is true at the same call on every host, soon after any of them
        wanted to. Every host must call this equally often."""
        return wanted

    def require_same(self, values: Mapping[str, Any]) -> None:
        """Compares values, by their names, with those of the other hosts.

        Raises:
            UserError: a host differs from host 0; it is named, and so is every key.
        """
        first, *others = self.gather(dict(values))
        for rank, theirs in enumerate(others, 1):
            different = [
                f"\n  {key}: {theirs.get(key)!r}, on {self.name(0)} {first.get(key)!r}"
                for key in sorted({*first, *theirs})
                if first.get(key) != theirs.get(key)
            ]
            if different:
                raise UserError(f"{self.name(rank)} differs from the first:{''.join(different)}")


ALONE = Hosts()


class End(NamedTuple):
    """How a host ended."""

    status: int
    message: str


@contextlib.contextmanager
def join(system: SystemConfig) -> Iterator[Hosts]:
    """The hosts that train together: those that the configuration names, those that Slurm or Open
    MPI started, or this one alone. None leaves before all are done, and an error ends all.

    Must come before JAX is asked for its devices. Where there are several, the process ends soon
    after this does.

    Raises:
        UserError: they can't meet.
        SystemExit: another host ended, which was said.
    """
    place = find_place(system)
    if place is None:
        yield ALONE
        return
    with contextlib.ExitStack() as stack:
        if place.rank == 0:
            print(f"waiting for {place.count} hosts at {place.coordinator}", flush=True)
            hub = Hub(listen(place), place.count)
            # The last to leave: JAX ends the others with the process of host 0.
            stack.callback(hub.wait_for_others, GRACE_S)
        else:
            silence = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        together = Together(place, connect(place))
        replace_aborts(together.explain_abort)
        try:
            together.meet()
            _initialize_jax(place, together)
            yield together
            together.part()
        except BaseException as error:
            together.explain(error)
            raise
        finally:
            leave_soon(together.status)


class Together(Hosts):
    """Several hosts, as one of them sees them."""

    def __init__(self, place: Place, connection: socket.socket):
        self.rank, self.count = place.rank, place.count
        self._names = [""] * place.count
        self._connection = connection
        self._answers: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        """Behind the last one stands None once another host has ended."""
        self._changed = threading.Condition()
        self._calls = 0
        """Of `must_stop`."""
        self._asked = False
        self._held: int | None = None
        """The last call that may answer before it is settled where all stop."""
        self._stop_at: int | None = None
        self._is_stopping = False
        self._patience = place.patience_s
        self._missing = [*range(place.count)]
        """Hosts that have not come yet."""
        self._leaves_with: int | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def status(self) -> int:
        """With which exit status this host leaves."""
        return 1 if self._leaves_with is None else self._leaves_with

    def meet(self) -> None:
        """Waits until all hosts are there.

        Raises:
            UserError: some did not come in time.
        """
        self._send({"hello": self.rank, "name": socket.gethostname()})
        self._names = self._take(self._patience)

    def name(self, rank: int) -> str:
        return f"host {rank} ({self._names[rank]})" if self._names[rank] else f"host {rank}"

    def gather(self, value: Any) -> list[Any]:
        self._send({"give": value})
        return self._take()

    def gather_results(self, do: Callable[[], Any]) -> list[Any]:
        value, problem = None, None
        try:
            value = do()
        except Exception as error:  # whichever it is, the others must not wait for this host
            problem = error
        outcomes = self.gather([None if problem is None else str(problem), value])
        for rank, (text, _) in enumerate(outcomes):
            if text is not None:
                raise UserError(f"{self.name(rank)}: {text}") from problem
        return [value for _, value in outcomes]

    def must_stop(self, wanted: bool) -> bool:
        with self._changed:
            self._calls += 1
            if wanted and not self._asked:
                self._asked = True
                self._send({"stop": True})
            self._changed.wait_for(
                lambda: (
                    self.ended is not None
                    or self._held is None
                    or self._stop_at is not None
                    or self._calls <= self._held
                )
            )
            self._is_stopping = self._stop_at is not None and self._calls >= self._stop_at
            return self._is_stopping

    def part(self) -> None:
        """Waits until all hosts are done."""
        self.gather(None)
        self._send({"bye": True})
        self._leave_with(INTERRUPTED if self._is_stopping else 0)

    def explain(self, error: BaseException) -> None:
        """Tells the other hosts why this one ends.

        Raises:
            SystemExit: another one has ended before, which was said.
        """
        is_interruption = isinstance(error, KeyboardInterrupt)
        if isinstance(error, Stopped):  # on all; a second signal, which comes before, is on one
            with contextlib.suppress(UserError, KeyboardInterrupt):
                self.part()
            return self._leave_with(INTERRUPTED)
        if not isinstance(error, UserError | OSError | KeyboardInterrupt):
            # A collective fails where another host has died: who that was will be known, and then
            # this thread is interrupted.
            with self._changed, contextlib.suppress(KeyboardInterrupt):
                self._changed.wait_for(lambda: self.ended is not None, timeout=5)
        status = INTERRUPTED if is_interruption else 1
        self._leave_with(status if self.ended is None else self.ended.status)
        if self.ended is not None:
            raise SystemExit(self.ended.status) from error
        text = "interrupted" if is_interruption else str(error) or repr(error)
        self._send({"end": status, "message": text})

    def explain_abort(self) -> int | None:
        """With which status to end where JAX aborts; None where no host is known to have ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.ended is not None or self._leaves_with is not None, timeout=2
            )
        if self.ended is not None:
            self._say_end(self.ended)  # once more, below JAX's stack trace
        return self._leaves_with if self.ended is None else self.ended.status

    def close(self) -> None:
        """Ends the connection, which otherwise the end of the process does."""
        self._leave_with(self.status)
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _leave_with(self, status: int) -> None:
        """From here on, what becomes of the others does not concern this host."""
        with self._changed:
            self._leaves_with = status

    def _take(self, patience: float = float("inf")) -> list[Any]:
        until = time.monotonic() + patience
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                answer = self._answers.get(timeout=0.5)
                if answer is not None:
                    return answer
                self._answers.put(None)
                assert self.ended is not None
                raise UserError(self.ended.message)
        missing = ", ".join(f"host {rank}" for rank in self._missing)
        raise UserError(
            f"{missing} did not come within {patience:g} s (system.meeting_s), of {self.count} "
            "hosts that were to train together"
        )

    def _send(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the listener says it
            self._connection.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        """Takes what the hub says, until it is gone."""
        with contextlib.suppress(OSError, ValueError), self._connection.makefile() as lines:
            for line in lines:
                self._hear(json.loads(line))
        self._end(End(1, f"{self.name(0)}: {GONE}"))

    def _hear(self, message: Mapping[str, Any]) -> None:
        match message:
            case {"all": values}:
                self._answers.put(values)
            case {"where": asker}:
                if asker != self.rank:
                    print(f"{self.name(asker)} was told to stop; all stop", file=sys.stderr)
                with self._changed:
                    self._held = self._calls
                    self._send({"passed": self._held})
            case {"stop_at": call}:
                with self._changed:
                    self._stop_at = call
                    self._changed.notify_all()
            case {"missing": ranks}:
                self._missing = ranks
            case {"end": status, "message": text}:
                self._end(End(status, text))

    def _end(self, end: End) -> None:
        """Ends this host, because another one has ended."""
        with self._changed:
            if self.ended is not None or self._leaves_with is not None:
                return
            self.ended = end
            # Here and at once: JAX may end this process before anything else can be said.
            self._say_end(end)
            self._answers.put(None)
            # Any signal will do that is not ignored, as Ctrl-C is in the background of a script.
            _thread.interrupt_main(next(iter(ending_signals()), signal.SIGINT))
            self._changed.notify_all()
        # In a collective, the main thread hears nothing.
        leave_after(GRACE_S, self._leave_by_force)

    def _say_end(self, end: End) -> None:
        prefix = "" if end.status == INTERRUPTED else "error: "
        print(f"{prefix}{end.message}", file=sys.stderr, flush=True)

    def _leave_by_force(self) -> None:
        if self.ended is not None and self._leaves_with is None:
            leave_at_once(self.ended.status)


def _initialize_jax(place: Place, hosts: Hosts) -> None:
    # Signals are agreed upon here; JAX's service would take SIGTERM away from Python.
    jax.config.update("jax_enable_preemption_service", False)
    with socket.create_server(("", 0)) as free:
        port = hosts.gather(free.getsockname()[1])[0]
    address = f"{place.coordinator.rpartition(':')[0]}:{port}"
    try:
        jax.distributed.initialize(
            address,
            place.count,
            place.rank,
            initialization_timeout=JAX_MEETING_S,
            # All devices of the host: what launchers' variables say would be one a process.
            cluster_detection_method="deactivate",
        )
    except RuntimeError as error:
        raise UserError(
            f"JAX's processes can't meet at {address} ({str(error).splitlines()[0]}): hosts need a "
            "network in which all ports are open"
        ) from error
