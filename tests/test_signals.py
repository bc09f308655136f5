import os
import signal
import threading

import pytest

from clipkit.errors import Interrupted
from clipkit.signals import STOPPING, StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in STOPPING]


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_is_noted(number: signal.Signals) -> None:
    with StopSignals() as stop:
        assert stop.number == 0
        send(number)
        assert stop.number == number


def test_it_stays_the_first() -> None:
    with StopSignals() as stop:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):
            send(number)
        assert stop.number == signal.SIGTERM


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_another_ends_at_once(first: signal.Signals) -> None:
    before = handlers()
    with pytest.raises(KeyboardInterrupt), StopSignals():
        send(first)
        send(signal.SIGINT)
    assert handlers() == before


def test_at_once_where_there_is_nothing_to_save() -> None:
    with StopSignals() as stop:
        reached = False
        with pytest.raises(Interrupted, match="stopped by SIGTERM") as stopped, stop.at_once():
            send(signal.SIGTERM)
            reached = True
        assert not reached
        assert stopped.value.signal_number == signal.SIGTERM
        assert stop.number == signal.SIGTERM  # also where what was stopped caught it


def test_at_once_also_for_one_that_came_before() -> None:
    with StopSignals() as stop:
        with stop.at_once():
            pass
        send(signal.SIGUSR1)
        with pytest.raises(Interrupted, match="SIGUSR1"), stop.at_once():
            raise AssertionError
        send(signal.SIGTERM)  # at once no longer
        assert stop.number == signal.SIGUSR1


def test_handlers_are_put_back() -> None:
    def mine(*_: object) -> None:
        pass

    before = signal.signal(signal.SIGUSR1, mine)
    try:
        kept = handlers()
        for error in (None, ValueError("x")):
            try:
                with StopSignals():
                    assert handlers() != kept
                    if error:
                        raise error
            except ValueError:
                pass
            assert handlers() == kept
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_elsewhere_than_in_the_main_thread_it_notes_none() -> None:
    before, found = handlers(), []

    def work() -> None:
        with StopSignals() as stop, stop.at_once():
            found.append((handlers(), stop.number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(before, 0)]
    assert handlers() == before
