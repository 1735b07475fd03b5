"""Of what real programs write when they fail, the line that tells most."""

from __future__ import annotations

import signal

import msgspec
import pytest

from events.types import Cancelled, Completed, Event, Failed, TimedOut
from projections.read_model.error_line import MAX_ERROR, cause_in, error_of
from trainshed_client.statuses import FailureReason

PLAIN = """\
Traceback (most recent call last):
  File "/home/ada/train.py", line 1, in <module>
    import torch
ModuleNotFoundError: No module named 'torch'
"""
CHAINED = """\
Traceback (most recent call last):
  File "/srv/cfg.py", line 3, in load
    return table[name]
           ~~~~~^^^^^^
KeyError: 'ppo'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/train.py", line 9, in <module>
    load("ppo")
ValueError: no algorithm ppo; known: sac, td3
"""
CUDA = """\
Epoch 3:  41%|████      | 410/1000 [00:12<00:17, 33.1it/s]\rEpoch 3:  42%|████▏     | 420/1000 [00:12<00:17, 33.1it/s]
\x1b[31mTraceback (most recent call last):\x1b[0m
  File "/home/ada/train.py", line 41, in <module>
    main()
  File "/home/ada/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", line 125, in forward
    return F.linear(input, self.weight, self.bias)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.01 GiB is free. Including non-PyTorch memory, this process has 22.61 GiB memory in use. Of the allocated memory 21.90 GiB is allocated by PyTorch.
wandb: 🚀 View run at: https://wandb.ai/x
wandb: Find logs at: ./wandb/run-1/logs
"""
CUDA_TOLD = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of "
    "which 1.01 GiB is free. Including non-PyTorch memory, this process has 22.61 GiB mem…"
)
ASSERT = """\
/pytorch/aten/src/ATen/native/cuda/Loss.cu:250: nll_loss_forward_reduce_cuda_kernel_2d: block: [0,0,0], thread: [3,0,0] Assertion `t >= 0 && t < n_classes` failed.
Traceback (most recent call last):
  File "/home/ada/train.py", line 12, in <module>
    loss.backward()
RuntimeError: CUDA error: device-side assert triggered
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.

"""
TORCHRUN = """\
W1124 10:00:00.000000 140 torch/distributed/run.py:793]
[rank1]: Traceback (most recent call last):
[rank1]:   File "/srv/train.py", line 20, in <module>
[rank1]:     main()
[rank1]: RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 5x2)
[rank0]: Traceback (most recent call last):
[rank0]:   File "/srv/train.py", line 22, in <module>
[rank0]:     dist.all_reduce(x)
[rank0]: torch.distributed.DistBackendError: NCCL error in: /pytorch/NCCLUtils.hpp:275, remote process exited or there was a network error
E1124 10:00:05.123000 140 torch/distributed/elastic/multiprocessing/api.py:869] failed (exitcode: 1) local_rank: 1 (pid: 151) of binary: /usr/bin/python3
Traceback (most recent call last):
  File "/home/ada/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/home/ada/venv/lib/python3.11/site-packages/torch/distributed/launcher/api.py", line 264, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_10:00:05
  host      : gpu01
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 151)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/errors
============================================================
"""
TORCHRUN_ALONE = TORCHRUN[TORCHRUN.index("E1124") :]
TORCHRUN_KILLED = TORCHRUN_ALONE.replace(
    "To enable traceback see", "Signal 9 (SIGKILL) received by PID 151; see"
)
HYDRA = """\
Error executing job with overrides: ['lr=3e-4', 'env=ant']
Traceback (most recent call last):
  File "/srv/train.py", line 14, in main
    env = gym.make(cfg.env)
gymnasium.error.NameNotFound: Environment `ant` doesn't exist.

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
HYDRA_TARGET = """\
Error executing job with overrides: []
Error in call to target 'model.Net':
RuntimeError('width must be positive')
full_key: model

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
HYDRA_WRAPPED = """\
Traceback (most recent call last):
  File "/x/hydra/_internal/instantiate/_instantiate2.py", line 92, in _call_target
    return _target_(*args, **kwargs)
RuntimeError: width must be positive

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/train.py", line 8, in main
    net = instantiate(cfg.model)
hydra.errors.InstantiationException: Error in call to target 'model.Net':
RuntimeError('width must be positive')
full_key: model
"""
VEC_ENV = """\
Process ForkServerProcess-1:
Traceback (most recent call last):
  File "/usr/lib/python3.11/multiprocessing/process.py", line 314, in _bootstrap
    self.run()
  File "/srv/env.py", line 31, in step
    raise ValueError("joint out of range")
ValueError: joint out of range
Traceback (most recent call last):
  File "/srv/train.py", line 12, in <module>
    model.learn(1_000_000)
  File "/usr/lib/python3.11/multiprocessing/connection.py", line 399, in _recv
    raise EOFError
EOFError
"""
LOADER = """\
ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm).
Traceback (most recent call last):
  File "/srv/train.py", line 12, in <module>
    for batch in loader:
RuntimeError: DataLoader worker (pid 4121) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared memory.
"""
ACCELERATE = (
    PLAIN
    + """\
Traceback (most recent call last):
  File "/home/ada/venv/bin/accelerate", line 8, in <module>
    sys.exit(main())
subprocess.CalledProcessError: Command '['/usr/bin/python3', 'train.py']' returned non-zero exit status 1.
"""
)
RAY = """\
\x1b[36m(train pid=812, ip=10.0.0.3)\x1b[0m step 3
Traceback (most recent call last):
  File "/srv/tune.py", line 30, in <module>
    ray.get(train.remote())
ray.exceptions.RayTaskError(ValueError): \x1b[36mray::train()\x1b[39m (pid=812, ip=10.0.0.3)
  File "/srv/tune.py", line 12, in train
    raise ValueError("lr is negative")
ValueError: lr is negative
"""
GROUP = """\
  + Exception Group Traceback (most recent call last):
  |   File "/srv/serve.py", line 9, in <module>
  |     asyncio.run(main())
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/srv/serve.py", line 5, in work
    |     1 / 0
    | ZeroDivisionError: division by zero
    +------------------------------------
"""
IGNORED = (
    PLAIN
    + """\
Exception ignored in: <function Env.__del__ at 0x7f>
Traceback (most recent call last):
  File "/srv/env.py", line 8, in __del__
    self.close()
AttributeError: 'Env' object has no attribute 'viewer'
"""
)
SPAWN = """\
Traceback (most recent call last):
  File "/srv/train.py", line 9, in <module>
    mp.spawn(work, nprocs=2)
torch.multiprocessing.spawn.ProcessRaisedException:

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "/x/torch/multiprocessing/spawn.py", line 90, in _wrap
    fn(i, *args)
FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'

"""
STATE_DICT = """\
Traceback (most recent call last):
  File "/srv/train.py", line 9, in <module>
    net.load_state_dict(torch.load(path))
RuntimeError: Error(s) in loading state_dict for Net:
\tMissing key(s) in state_dict: "head.weight", "head.bias".
"""
SRUN = """\
0: Traceback (most recent call last):
0:   File "/srv/train.py", line 1, in <module>
0:     import jax
0: ModuleNotFoundError: No module named 'jax'
srun: error: n01: task 0: Exited with exit code 1
"""
SLURM_MEMORY = """\
slurmstepd: error: Detected 1 oom-kill event(s) in StepId=77.0. Some of your processes may have been killed by the cgroup out-of-memory handler.
srun: error: n01: task 0: Out Of Memory
"""
RICH = """\
╭─────────────────────────────── Traceback (most recent call last) ────────────────────────────────╮
│ /srv/train.py:3 in <module>                                                                      │
│ ❱ 3 main()                                                                                       │
╰──────────────────────────────────────────────────────────────────────────────────────────────────╯
ZeroDivisionError: division by zero
"""
TYPER = """\
Usage: train.py [OPTIONS]
Try 'train.py --help' for help.
╭─ Error ──────────────────────────────────────────────────────────────────────────────────────────╮
│ No such option: --sead Did you mean --seed?                                                      │
╰──────────────────────────────────────────────────────────────────────────────────────────────────╯
"""
CPP = """\
terminate called after throwing an instance of 'c10::Error'
  what():  CUDA error: an illegal memory access was encountered
Exception raised from c10_cuda_check_implementation at ../c10/cuda/CUDAException.cpp:43
"""
FAULT = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f6a (most recent call first):
  File "/srv/env.py", line 12 in render
  File "/srv/train.py", line 30 in <module>

Extension modules: numpy.core._multiarray_umath, mujoco._structs (total: 31)
"""
SYNTAX = """\
  File "/srv/train.py", line 3
    print("a"
         ^
SyntaxError: '(' was never closed
"""
LOGURU = """\
2026-11-24 10:00:00.000 | ERROR    | __main__:<module>:7 - An error has been caught in function '<module>'
Traceback (most recent call last):

> File "/srv/train.py", line 7, in <module>
    main()
    └ <function main at 0x7f>

OSError: [Errno 28] No space left on device
"""
RUST = """\
thread 'main' panicked at src/main.rs:4:10:
index out of bounds: the len is 3 but the index is 5
note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
"""
R = "Error in library(keras) : \n  there is no package called ‘keras’\nExecution halted\n"
MAKE = "python3: can't open file '/srv/trian.py': [Errno 2] No such file or directory\nmake: *** [Makefile:2: train] Error 2\n"
ARGPARSE = "usage: train.py [-h] [--lr LR]\ntrain.py: error: unrecognized arguments: --learning-rate 3e-4\n"
JULIA = "ERROR: LoadError: UndefVarError: `x` not defined\nStacktrace:\n [1] top-level scope\n   @ /srv/a.jl:1\nin expression starting at /srv/a.jl:1\n"
WARNED = "/srv/a.py:3: UserWarning: invalid value, an error in the next release\n  warnings.warn(x)\n"

TEXTS = {
    "plain": (PLAIN, "ModuleNotFoundError: No module named 'torch'"),
    "chained": (CHAINED, "ValueError: no algorithm ppo; known: sac, td3"),
    "cuda": (CUDA, CUDA_TOLD),
    "device assert": (ASSERT, "RuntimeError: CUDA error: device-side assert triggered"),
    "torchrun": (TORCHRUN, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (4x3 and 5x2)"),
    "torchrun alone": (
        TORCHRUN_ALONE,
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: train.py FAILED",
    ),
    "torchrun killed": (
        TORCHRUN_KILLED,
        "traceback : Signal 9 (SIGKILL) received by PID 151; see: https://pytorch.org/errors",
    ),
    "hydra": (HYDRA, "gymnasium.error.NameNotFound: Environment `ant` doesn't exist."),
    "hydra target": (HYDRA_TARGET, "RuntimeError('width must be positive')"),
    "hydra wrapped": (HYDRA_WRAPPED, "RuntimeError: width must be positive"),
    "vec env": (VEC_ENV, "ValueError: joint out of range"),
    "loader": (
        LOADER,
        LOADER.splitlines()[-1],
    ),
    "accelerate": (ACCELERATE, "ModuleNotFoundError: No module named 'torch'"),
    "ray": (RAY, "ValueError: lr is negative"),
    "exception group": (GROUP, "ZeroDivisionError: division by zero"),
    "ignored": (IGNORED, "ModuleNotFoundError: No module named 'torch'"),
    "spawn": (SPAWN, "FileNotFoundError: [Errno 2] No such file or directory: 'data/train.bin'"),
    "state dict": (
        STATE_DICT,
        'RuntimeError: Error(s) in loading state_dict for Net: Missing key(s) in state_dict: "head.weight", "head.bias".',
    ),
    "srun": (SRUN, "ModuleNotFoundError: No module named 'jax'"),
    "slurm memory": (SLURM_MEMORY, "srun: error: n01: task 0: Out Of Memory"),
    "rich": (RICH, "ZeroDivisionError: division by zero"),
    "typer": (TYPER, "No such option: --sead Did you mean --seed?"),
    "c++": (CPP, "CUDA error: an illegal memory access was encountered"),
    "faulthandler": (FAULT, "Fatal Python error: Segmentation fault"),
    "syntax": (SYNTAX, "SyntaxError: '(' was never closed"),
    "loguru": (LOGURU, "OSError: [Errno 28] No space left on device"),
    "rust": (RUST, "thread 'main' panicked at src/main.rs:4:10: index out of bounds: the len is 3 but the index is 5"),
    "r": (R, "Error in library(keras) : there is no package called ‘keras’"),
    "make": (MAKE, "python3: can't open file '/srv/trian.py': [Errno 2] No such file or directory"),
    "argparse": (ARGPARSE, "train.py: error: unrecognized arguments: --learning-rate 3e-4"),
    "julia": (JULIA, "ERROR: LoadError: UndefVarError: `x` not defined"),
    "bash": ("+ cd /srv\nrun.sh: line 3: torchrun: command not found\n", "run.sh: line 3: torchrun: command not found"),
    "dash": ("sh: 1: nvcc: not found\n", "sh: 1: nvcc: not found"),
    "python -m": ("/usr/bin/python3: No module named ppo\n", "/usr/bin/python3: No module named ppo"),
    "killed in a script": (
        PLAIN + "run.sh: line 4:  4711 Killed                  python3 train.py --env ant\n",
        "run.sh: line 4: 4711 Killed python3 train.py --env ant",
    ),
    "killed": ("loading\nKilled\n", "Killed"),
    "enemies": ("episode 3: Killed 4 enemies\nno checkpoint in /srv/c\n", "no checkpoint in /srv/c"),
    "segfault": ("Segmentation fault (core dumped)\n", "Segmentation fault (core dumped)"),
    "sys.exit": ("starting\ndata set cifar is not there\n", "data set cifar is not there"),
    "windows lines": ("Traceback (most recent call last):\r\n  File \"a\", line 1\r\nKeyError: 'x'\r\n", "KeyError: 'x'"),
    "progress last": ("bad config: lr\n 42%|████▏     | 420/1000 [00:12<00:17, 33.1it/s]\n", "bad config: lr"),
    "only progress": ("\r 42%|████▏     | 420/1000 [00:12<00:17, 33.1it/s]", None),
    "only warned": (WARNED, None),
    "cut at its beginning": ("most recent call last):\n  File \"a\"\nOSError: [Errno 5] Input/output error\n", "OSError: [Errno 5] Input/output error"),
    "no exception yet": ("Traceback (most recent call last):\n  File \"a\", line 1\n", 'File "a", line 1'),
    "bare": (PLAIN.replace("ModuleNotFoundError: No module named 'torch'", "AssertionError"), "AssertionError (train.py:1)"),
    "bare without frames": ("AssertionError\n", "AssertionError"),
    "lines": (PLAIN.replace("No module named 'torch'", "\nshapes do not match:\n  expected (3, 4)\n  got (4, 3)"),
              "ModuleNotFoundError: shapes do not match: expected (3, 4)"),
    "colons": ("ValueError: a:\n" + "b:\n" * 300, f"ValueError: a:{' b:' * 99}"[:199] + "…"),
    "git": ("git: 'nope' is not a git command. See 'git --help'.\n\nThe most similar command is\n\tnotes\n", "git: 'nope' is not a git command. See 'git --help'."),
    "perl": ("Can't locate Foo.pm in @INC (you may need to install Foo) at -e line 1.\nBEGIN failed--compilation aborted at -e line 1.\n",
             "Can't locate Foo.pm in @INC (you may need to install Foo) at -e line 1."),
    "unbound": ("start\nrun.sh: line 2: DATA: unbound variable\n", "run.sh: line 2: DATA: unbound variable"),
    "nothing": ("", None),
    "blank": (" \n\n\t\n", None),
    "control": ("\x1b]0;title\x07bad\x00 \x08\x9bname\n", "bad name"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_of_a_programs_last_words_the_cause_in_most(name: str) -> None:
    output, told = TEXTS[name]
    assert cause_in(output) == told


@pytest.mark.parametrize("name", TEXTS)
def test_the_line_is_one_of_printing_characters_and_not_too_long(name: str) -> None:
    told = cause_in(TEXTS[name][0] * 3)
    assert told is None or (told.isprintable() and len(told) <= MAX_ERROR)


@pytest.mark.parametrize(
    "end", ["\x1b[31m" * 2000, "a:" * 4000, "[0]: " * 1600, "Traceback (most recent call last):\n" * 230]
)
def test_odd_texts_take_no_time_and_raise_nothing(end: str) -> None:
    cause_in(end)


def failed(reason: FailureReason, **given: object) -> Failed:
    return msgspec.structs.replace(
        Failed(run_id="r", attempt=1, failure_reason=reason, output_tail=PLAIN, output_of="stderr"), **given
    )


TOLD = "ModuleNotFoundError: No module named 'torch'"
ENDS: list[tuple[Event, str | None]] = [
    (failed(FailureReason.EXIT_CODE, exit_code=1), TOLD),
    (failed(FailureReason.EXIT_CODE, exit_code=3, output_tail="no data\n"), "no data"),
    (failed(FailureReason.EXIT_CODE, exit_code=3, output_tail=None), None),
    (failed(FailureReason.EXIT_CODE, exit_code=3, output_of="stdout"), TOLD),
    (failed(FailureReason.EXIT_CODE, exit_code=3, output_tail="epoch 3: error rate 0.2\n", output_of="stdout"), None),
    (failed(FailureReason.EXIT_CODE, exit_code=3, output_tail="Error: no data\nbye\n", output_of="stdout"), "Error: no data"),
    (failed(FailureReason.EXIT_CODE, exit_code=3, output_tail="epoch 3\n", output_of=None), None),
    (failed(FailureReason.SIGNAL, signal=signal.SIGABRT, output_tail=CPP), TEXTS["c++"][1]),
    (failed(FailureReason.SIGNAL, signal=signal.SIGSEGV, output_tail="step 3: no error yet\n"), None),
    (failed(FailureReason.SIGNAL, signal=signal.SIGKILL), None),
    (failed(FailureReason.SIGNAL, signal=signal.SIGTERM), None),
    (failed(FailureReason.SIGNAL), None),
    (failed(FailureReason.SPAWN_ERROR, message="working_dir /x: no such folder"), "working_dir /x: no such folder"),
    (failed(FailureReason.NOT_STARTED, message="a\nb\x1b[0m"), "a b"),
    (failed(FailureReason.OUT_OF_MEMORY, message="it needed more than 512"), "it needed more than 512"),
    (failed(FailureReason.NODE_RECLAIMED), None),
    (Completed(run_id="r", attempt=1), None),
    (Cancelled(run_id="r", attempt=1, reason="cancel"), None),
    (TimedOut(run_id="r", attempt=1, failure_reason=FailureReason.TIME_LIMIT), None),
]  # fmt: skip


@pytest.mark.parametrize(("event", "told"), ENDS)
def test_what_an_end_says_of_its_cause(event: Event, told: str | None) -> None:
    assert error_of(event) == told
