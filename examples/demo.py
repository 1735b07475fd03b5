"""The tour behind `make demo`: a sweep of real training runs on a stack of its own, by the command line alone.

It owns the story; it imports nothing of Trainshed, so that everything it does a user can do. `make demo STATE=DIR`
(or `demo.py DIR`) keeps the state folder, else it is a temporary one. Exit code 0: all came out as promised.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from examples.demo_screen import LIVE, Run, Screen, sweep

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
# As a user of the checkout would type it.
SHOWN_BIN = str(BIN.relative_to(ROOT)) if BIN.is_relative_to(ROOT) else str(BIN)
PYTHON = f"{SHOWN_BIN}/{Path(sys.executable).name}"
CARTPOLE = "examples/cartpole.py"
START_S, CALL_S, WAIT_S, STOP_S = 30.0, 30.0, 110.0, 20.0
ENDED_WITHOUT_CODE = 125  # what `wait` exits with where a run was cancelled or timed out
ENDS = {"completed": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED", "timed_out": "FAILED"}


class Unmet(Exception):
    """Something did not come out as the demo promises."""


class Trainshed:
    """The command line, on one state folder."""

    def __init__(self, state: Path, screen: Screen) -> None:
        self.state = state
        self.screen = screen
        # Nothing that points at another stack may reach ours.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TRAINSHED_", "NATS_")) and name not in ("VAR_LOGS_DIR", "NOTIFY_SOCKET")
        }
        self.environment["TRAINSHED_STATE_DIR"] = str(state)
        self.environment["TRAINSHED_WORKER_USERS"] = (
            "*=root"  # where root runs this: these are our own programs
        )

    async def start(self, *words: str, stdout: int, stderr: int, **environment: str) -> Process:
        """Start a command in a session of its own: Ctrl-C reaches the demo alone, which ends what it started."""
        return await asyncio.create_subprocess_exec(
            str(BIN / "trainshed"),
            *words,
            cwd=ROOT,
            env={**self.environment, **environment},
            stdin=DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            limit=1 << 22,
        )

    async def call(self, *words: str, expect: int = 0, within: float = CALL_S) -> str:
        """Show a command and run it to its end; its stdout. Raises Unmet for another exit code than ``expect``."""
        self.screen.command(["trainshed", *words])
        process = await self.start(*words, stdout=PIPE, stderr=PIPE)
        try:
            async with asyncio.timeout(within):
                output, errors = await process.communicate()
        except TimeoutError:
            raise Unmet(f"`trainshed {words[0]}` took more than {within:.0f} s") from None
        finally:
            await end(process)
        said = errors.decode(errors="replace").rstrip()
        if process.returncode != expect:
            raise Unmet(f"`trainshed {words[0]}` exited with {process.returncode}, expected {expect}\n{said}")
        if said:
            self.screen.say(said, "dim")
        return output.decode()

    async def lines(self, *words: str) -> AsyncGenerator[str, None]:
        """Show a command and follow its stdout, line by line, until it ends or the caller has seen enough."""
        self.screen.command(["trainshed", *words])
        with (self.state / "demo-follow.log").open("ab") as log:
            process = await self.start(*words, stdout=PIPE, stderr=log.fileno())
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                yield line.decode(errors="replace")
        finally:
            await end(process)


async def end(process: Process, within: float = 5.0) -> None:
    """SIGTERM, then SIGKILL after ``within`` seconds: returns when the process is gone."""
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(within):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def stack(trainshed: Trainshed) -> AsyncIterator[None]:
    """`trainshed up` on the demo's folder, until the block is left; it takes its workers with it."""
    words = ("up", "--gpus", "2", "--node", "demo", "--stop-workers")
    trainshed.screen.heading("A stack of its own, with two declared slots (in the background)")
    trainshed.screen.command(["CUDA_VISIBLE_DEVICES=", "trainshed", *words])
    log = trainshed.state / "demo-up.log"
    with log.open("wb") as file:
        fd = file.fileno()
        up = await trainshed.start(*words, stdout=fd, stderr=fd, CUDA_VISIBLE_DEVICES="")
    try:
        await until_ready(trainshed, up)
        yield
        if up.returncode is not None:
            raise Unmet(f"`trainshed up` ended by itself, with {up.returncode}")
    except Unmet as unmet:
        last = log.read_text(errors="replace").splitlines()[-20:]
        raise Unmet("\n".join([str(unmet), "The last lines of `trainshed up`:", *last])) from unmet
    finally:
        await end(up, STOP_S)


async def until_ready(trainshed: Trainshed, up: Process) -> None:
    """Ask for the nodes until the stack answers with ours: at its start there is nothing yet to wait on."""
    words = ("nodes", "--json")
    trainshed.screen.command(["trainshed", *words])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_S):
            while up.returncode is None:
                asked = await trainshed.start(*words, stdout=PIPE, stderr=DEVNULL)
                try:
                    answer, _ = await asked.communicate()
                finally:
                    await end(asked)
                if asked.returncode == 0:
                    nodes = json.loads(answer)["nodes"]
                    if any(node["node"] == "demo" and node["status"] == "up" for node in nodes):
                        return
                await asyncio.sleep(0.1)
    if up.returncode is not None:
        raise Unmet(f"`trainshed up` ended with {up.returncode} before it was ready")
    raise Unmet(f"`trainshed up` was not ready within {START_S:.0f} s")


async def submit(trainshed: Trainshed, run: Run) -> dict[str, Any]:
    """Submit one run; the API's answer."""
    if run.time_out_s is None:
        words = ["--gpus", "1", "--name", run.name, "--", PYTHON, CARTPOLE, *run.arguments]
    else:
        config = {
            "run_name": run.name,
            "entry_point": str(ROOT / PYTHON),
            "arguments": [CARTPOLE, *run.arguments],
            "working_dir": str(ROOT),
            "resources": {"gpus": {"requested": 1}},
            "heartbeat": {"source": "notify", "timeout_s": run.time_out_s},
        }
        file = trainshed.state / f"{run.name}.json"
        file.write_text(json.dumps(config, indent=2) + "\n")
        trainshed.screen.say(f"$ cat {file}\n{json.dumps(config)}")
        words = ["-f", str(file)]
    answer: dict[str, Any] = json.loads(await trainshed.call("submit", "--json", *words))
    return answer


async def follow(trainshed: Trainshed, running: dict[str, asyncio.Event]) -> None:
    """Show each transition as the log tells it, until every run has ended; sets ``running`` for what has started."""
    screen = trainshed.screen
    async with contextlib.aclosing(trainshed.lines("events", "-f", "--from", "1")) as lines:
        async for line in lines:
            event = json.loads(line)
            run = screen.runs.get(event.get("subject", ""))
            kind = event["type"].split(".")[2]
            if run is None:
                continue
            if kind == "dispatched":
                run.where = ", ".join(map(str, event["data"]["slots"]))
                screen.change(run, "DISPATCHING")
            elif kind == "started":
                screen.change(run, "RUNNING")
                running[run.run_id].set()
            elif kind in ENDS:
                screen.change(run, ENDS[kind])
                if all(other.now not in LIVE for other in screen.runs.values()):
                    return
    raise Unmet(f"`trainshed events -f` ended before the runs (see {trainshed.state / 'demo-follow.log'})")


async def cancel_in_training(trainshed: Trainshed, run: Run, running: asyncio.Event) -> None:
    """Wait until the run trains (its output says so), then cancel it."""
    await running.wait()
    try:
        async with (
            asyncio.timeout(20),
            contextlib.aclosing(trainshed.lines("logs", "-f", run.run_id)) as lines,
        ):
            async for line in lines:
                if '"episode"' in line:
                    break
            else:
                raise Unmet(f"`trainshed logs -f` of {run.name} ended without a line of its training")
    except TimeoutError:
        raise Unmet(f"`trainshed logs -f` of {run.name} showed no line of its training in 20 s") from None
    await trainshed.call("cancel", run.run_id)


async def until_all_ended(trainshed: Trainshed) -> None:
    """`trainshed wait` for all runs, the screen alive and one run cancelled meanwhile."""
    runs = trainshed.screen.runs
    running = {run_id: asyncio.Event() for run_id in runs}
    to_cancel = next(run for run in runs.values() if run.status == "CANCELLED")
    wait = ("wait", "--timeout", f"{WAIT_S:.0f}", *runs)
    try:
        with trainshed.screen.live():
            async with asyncio.TaskGroup() as tasks:
                follower = tasks.create_task(follow(trainshed, running))
                tasks.create_task(cancel_in_training(trainshed, to_cancel, running[to_cancel.run_id]))
                await trainshed.call(*wait, expect=ENDED_WITHOUT_CODE, within=WAIT_S + 10)
                # All have ended, so their last events are there to be read.
                try:
                    async with asyncio.timeout(CALL_S):
                        await follower
                except TimeoutError:
                    raise Unmet("`trainshed wait` saw all runs end, `trainshed events -f` did not") from None
    except BaseExceptionGroup as group:
        unmet, other = group.split(Unmet)
        if other is not None or unmet is None:
            raise
        raise Unmet("\n".join(map(str, _leaves(unmet)))) from group


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for part in error.exceptions for leaf in _leaves(part)]
    return [error]


async def story(trainshed: Trainshed) -> None:
    """The whole demo, from an empty folder to the verified log. Raises Unmet."""
    screen = trainshed.screen
    plan = sweep()
    wrong: list[str] = []
    async with stack(trainshed):
        screen.heading(
            f"A sweep of {len(plan)} runs: most learn, one breaks, one is too long, one goes silent"
        )
        for run in plan:
            run.run_id = (await submit(trainshed, run))["run_id"]
            screen.runs[run.run_id] = run

        screen.heading("The first config again: the answer is the run that exists")
        again = await submit(trainshed, plan[0])
        screen.say(json.dumps(again))
        if again["created"] or again["run_id"] != plan[0].run_id:
            wrong.append(f"the second submit of one config should answer {plan[0].run_id} and created false")

        screen.heading("The runs, as the log tells it")
        await until_all_ended(trainshed)

        screen.heading("What came out")
        listed = json.loads(await trainshed.call("ls", "--all", "--json"))["runs"]
        for record in listed:
            if record["run_id"] in screen.runs:
                screen.runs[record["run_id"]].record = record
        screen.result()
        if len(listed) != len(plan):
            wrong.append(f"`ls --all` has {len(listed)} runs, expected {len(plan)}")
        wrong += [line for run in plan for line in run.unmet()]

        screen.heading("Replaying the log gives the same state")
        screen.say((await trainshed.call("audit", "verify")).rstrip())
    if wrong:
        raise Unmet("\n".join(wrong))


def next_steps(kept: Path | None) -> list[str]:
    """Three commands to try, which work as they are printed."""
    trainshed = f"{SHOWN_BIN}/trainshed"
    if kept is None:
        return [
            f"{trainshed} up --detach",
            f"{trainshed} run --name mine -- {PYTHON} {CARTPOLE} --seed 3",
            f"{trainshed} show mine",
        ]
    here = f"TRAINSHED_STATE_DIR={shlex.quote(str(kept))} {trainshed}"
    best = sweep()[-1].name
    return [
        f"CUDA_VISIBLE_DEVICES= {here} up --gpus 2 --node demo --detach",
        f"{here} show {best}",
        f"{here} logs {best}",
    ]


async def main(folder: str | None) -> int:
    """The exit code: 0 as promised, 1 not so, 2 could not start, 130 stopped by Ctrl-C or a signal."""
    screen = Screen()
    if not (BIN / "trainshed").exists():
        screen.say(f"There is no {SHOWN_BIN}/trainshed: run `make` first.")
        return 2
    kept = Path(folder).expanduser().resolve() if folder else None
    if kept is not None and kept.exists() and (not kept.is_dir() or any(kept.iterdir())):
        screen.say(
            f"{kept} is not an empty folder: the demo starts on a fresh one. Name another, or remove it."
        )
        return 2
    state = kept or Path(tempfile.mkdtemp(prefix="trainshed-demo-"))
    _cancel_on_signals()
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        screen.say(f"TRAINSHED_STATE_DIR is {state}; a stack that runs here already is not touched.")
        await story(Trainshed(state, screen))
    except Unmet as unmet:
        screen.say("\nThe demo did not come out as it should:", "bold red")
        screen.say(str(unmet))
        return 1
    except asyncio.CancelledError:
        # Asked for by a signal, below: the end of the program, with everything that it started gone.
        screen.say("\nStopped: the stack and its workers are ended.")
        return 130
    finally:
        if kept is None:
            shutil.rmtree(state, ignore_errors=True)
    took = time.monotonic() - screen.started
    screen.heading(f"All {len(screen.runs)} runs ended as promised, in {took:.0f} s. To try next:")
    for line in next_steps(kept):
        screen.say(f"  {line}", "cyan")
    return 0


def _cancel_on_signals() -> None:
    """The first Ctrl-C, SIGTERM or SIGHUP cancels the story, which ends its stack; later ones do not disturb that."""
    task = asyncio.current_task()
    assert task is not None
    asked: list[int] = []

    def cancel(number: int) -> None:
        if not asked:
            asked.append(number)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, cancel, number)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("STATE"))))
