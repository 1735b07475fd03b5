"""`trainshed_client.notify`: a shim reads what was meant, what cannot be sent is named once, and nothing ever raises."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.shim import core
from services.agent.shim import notify as shim
from services.agent.shim.core_types import Fields
from trainshed_client import notify
from trainshed_client.notify import TrainingNotifier
from trainshed_client.notify_sender import _encoded

NAMES = st.text(min_size=1, max_size=8).filter(shim.is_name)
NUMBERS = st.floats() | st.integers(-(2**60), 2**60)


class Heard:
    """A notifier in a worker, and what its shim has read."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.fields: list[Fields | None] = []
        self.notify = TrainingNotifier(
            {"NOTIFY_SOCKET": "/n"} if environment is None else environment, self._send
        )

    def _send(self, address: str, message: Mapping[str, str]) -> None:
        assert address == "/n"
        self.fields.append(shim.parse(_encoded(message)))

    def repeat(self, times: int, step: object, **more: Any) -> None:
        """The same step so many times."""
        for _ in range(times):
            self.notify.step(step, **more)

    @property
    def last(self) -> Fields:
        fields = self.fields[-1]
        assert fields is not None
        assert fields.passed_over == ()
        return fields


@given(
    step=st.integers(-(2**53) + 1, 2**53 - 1),
    progress=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    metrics=st.dictionaries(NAMES, NUMBERS, max_size=5),
)
def test_a_shim_reads_the_step_that_was_reported(
    step: int, progress: float | None, metrics: dict[str, float]
) -> None:
    heard = Heard()
    heard.notify.step(step, progress=progress, metrics=metrics)
    assert (heard.last.step, heard.last.progress, heard.last.alive) == (step, progress, True)
    wanted = {name: float(value) for name, value in metrics.items()}
    assert [name for name, _ in heard.last.metrics] == list(wanted)
    for name, value in heard.last.metrics:
        assert value == wanted[name] or (math.isnan(value) and math.isnan(wanted[name]))


@given(
    st.text(max_size=110)
    | st.sampled_from(["a=b", " a", "a\n", "\ufffd", "loss/train", "x" * 100, "x" * 101])
)
def test_both_ends_have_one_rule_for_a_metrics_name(name: str) -> None:
    assert notify.is_metric_name(name) == shim.is_name(name)


def test_both_ends_have_the_same_bounds() -> None:
    assert (notify.MAX_METRICS, notify.MAX_NAME, notify.MAX_STATUS) == (
        core.MAX_METRICS,
        shim.MAX_NAME,
        shim.MAX_STATUS,
    )


def test_each_call_reports_what_it_is_called() -> None:
    heard = Heard()
    heard.notify.ready()
    assert (heard.last.ready, heard.last.alive) == (True, True)
    heard.notify.status("collecting\nX_STEP=7\x00 " + "x" * 600)
    assert heard.last.status_text is not None
    assert heard.last.status_text.startswith("collecting X_STEP=7  x")
    assert len(heard.last.status_text) == notify.MAX_STATUS
    heard.notify.progress(0.25)
    assert heard.last.progress == 0.25
    heard.notify.primary("eval/reward")
    assert heard.last.primary_metric == "eval/reward"
    heard.notify.step(3, progress=0.5, metrics={"eval/loss": 0.5, "loss": 1}, loss=2, number=4)
    assert dict(heard.last.metrics) == {"eval/loss": 0.5, "loss": 2.0, "number": 4.0}
    heard.notify.step(None, loss=3)
    assert (heard.last.step, heard.last.metrics) == (None, (("loss", 3.0),))
    assert len(heard.fields) == 6


@pytest.mark.parametrize(
    "value",
    [1.5, np.float32(1.5), np.float16(1.5), np.array(1.5), np.array([1.5]), Decimal("1.5"), Fraction(3, 2)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_every_kind_of_number(value: object) -> None:
    heard = Heard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard.notify.step(np.int64(7), progress=value, loss=value)
    assert (heard.last.step, heard.last.progress, heard.last.metrics) == (7, 1.5, (("loss", 1.5),))


def test_what_is_not_known_yet_is_left_out_in_silence() -> None:
    heard = Heard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard.notify.step(1, loss=None, reward=2)
    assert heard.last.metrics == (("reward", 2.0),)


class _Hostile:
    def __float__(self) -> float:
        raise RuntimeError("the device is gone")

    def __repr__(self) -> str:
        raise RuntimeError("so is this")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"metrics": {"a=b": 1}}, "'a=b' is no metric's name (1 to 100 characters"),
    ({"metrics": {"": 1}}, "'' is no metric's name"),
    ({"metrics": {7: 1}}, "7 is no metric's name"),
    ({"metrics": {"x" * 101: 1}}, "xxx… is no metric's name"),
    ({"note": "high"}, "note is 'high' (str), not a number"),
    ({"note": "0.5"}, "note is '0.5' (str), not a number"),
    ({"note": 10**400}, "not a number: int too large"),
    ({"note": 1j}, "note is 1j (complex), not a number"),
    ({"note": np.zeros(3)}, "note is array([0., 0., 0.]) (numpy.ndarray), not a number"),
    ({"note": _Hostile()}, "note is RuntimeError('so is this')"),
    ({"progress": math.nan}, "progress is nan, not a finite number"),
    ({"progress": "half"}, "progress is 'half' (str), not a number"),
]


@pytest.mark.parametrize(("wrong", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_what_cannot_be_sent_is_named_once_and_the_rest_is_sent(wrong: dict[str, Any], text: str) -> None:
    heard = Heard()
    with pytest.warns(UserWarning) as caught:  # the text is looked at below
        heard.repeat(3, 1, **wrong, loss=0.5)
    assert [str(one.message).startswith("trainshed_client.notify: ") for one in caught] == [True]
    assert text in str(caught[0].message)
    assert str(caught[0].message).endswith("; it is left out")
    assert caught[0].filename == __file__
    assert (heard.last.step, heard.last.progress, heard.last.metrics) == (1, None, (("loss", 0.5),))


@pytest.mark.parametrize("step", [1.5, "7", math.inf, math.nan, 2**53, np.zeros(2)], ids=repr)
def test_a_step_that_is_none_is_named_and_its_metrics_count(step: object) -> None:
    heard = Heard()
    with pytest.warns(UserWarning, match="the step is ") as caught:
        heard.repeat(2, step, loss=0.5)
    assert len(caught) == 1
    assert (heard.last.step, heard.last.metrics) == (None, (("loss", 0.5),))


def test_a_metric_too_many_is_named_and_the_first_ones_go_on() -> None:
    heard = Heard()
    with pytest.warns(UserWarning, match="a run has 64 metrics at most, and 'm64' is one more") as caught:
        heard.repeat(2, 1, metrics={f"m{number}": number for number in range(70)})
    assert len(caught) == 1
    assert [name for name, _ in heard.last.metrics] == [f"m{number}" for number in range(64)]


def test_where_warnings_are_errors_a_report_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard.notify.step(1, loss="high")
        heard.notify.primary("a=b")
    assert capsys.readouterr().err.count("; it is left out") == 2
    assert len(heard.fields) == 1


def test_where_nobody_listens_nothing_is_looked_at() -> None:
    heard = Heard({})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heard.notify.ready()
        heard.notify.step(_Hostile(), progress=_Hostile(), metrics={"a=b": 1}, loss=_Hostile())
        heard.notify.status(_Hostile())
        heard.notify.progress("half")
        heard.notify.primary("a=b")
    assert not heard.notify.listening()
    assert heard.fields == []


def test_importing_it_imports_no_event_loop_and_no_library() -> None:
    program = (
        "import sys\nfrom trainshed_client import notify\nnotify.step(1, loss=2)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert not {"asyncio", "nats", "msgspec", "socket", "json"} & set(done.stdout.split())
    assert done.stderr == ""
