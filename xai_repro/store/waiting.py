"""A call that waits for somebody else, and for how long."""

from concurrent.futures import Future
from threading import Thread


def in_time(call, seconds):
    """The value of call(), or its error; TimeoutError when it takes longer than so many seconds.

    The call has a thread of its own, left behind when it is late: nothing else ends one that waits for a peer.
    """
    outcome = Future()

    def work():
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the value is wanted
            outcome.set_exception(error)

    Thread(target=work, daemon=True).start()
    return outcome.result(seconds)
