"""Kernels that start at once: one process imports what every notebook needs, and each kernel is a fork of it.

`serve` is that process; `ask` stands in for the kernel that Jupyter starts. It asks for a fork, passes on its standard files, its folder, its environment and
interrupts, and ends as the fork does; where nobody answers it becomes an ordinary kernel. It imports little, since every notebook starts it.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

ADDRESS = "XAI_REPRO_PRELOADED"  # environment variable with the name of the socket
ENOUGH = 5  # from so many notebooks on it is worth the seconds that one import takes
WAIT = 60  # seconds that `ask` gives `serve` to import
_INTERRUPT, _LOST = b"I", b""


@contextmanager
def preloaded(folder, environment, notebooks):
    """The environment in which notebooks find such a process, which lives as long as the context; without one where they are few, and outside Linux."""
    if notebooks < ENOUGH or sys.platform != "linux":
        yield environment
        return
    address = os.path.join(folder, "preloaded")
    server = subprocess.Popen([sys.executable, "-m", "xai_repro.site.preload", "serve", address], env=environment, start_new_session=True,
                              stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        yield environment | {ADDRESS: address}
    finally:
        server.kill()
        server.communicate()


def command(address, connection_file):
    """What Jupyter has to start in place of a kernel."""
    return [sys.executable, "-I", "-S", __file__, address, connection_file]


# -- the process that is forked -----------------------------------------------------------------------------------------


def serve(address):
    """Import, then fork for everyone who asks, until standard input ends, as it does when the process that started this one is gone."""
    os.environ.pop("JPY_PARENT_PID", None)  # a kernel would end with that process
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as kernels do, but before matplotlib is imported
    try:
        _import()
    except BaseException:
        open(address, "w").close()  # where no socket is, nobody waits for one
        raise
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(address)
        door.listen()
        while sys.stdin not in (ready := select.select([door, sys.stdin], [], [])[0]):
            asking, _ = ready[0].accept()
            if os.fork() == 0:
                door.close()
                _keep(asking)
            asking.close()


def _import():
    import ipykernel.ipkernel  # noqa: F401
    import ipykernel.kernelapp  # noqa: F401
    import torchvision  # noqa: F401

    from xai_repro.registry import method_info, methods
    from xai_repro.store import fingerprint
    from xai_repro.study import claims, evaluate, plots, tables  # noqa: F401

    for name in methods():
        fingerprint.of_code(method_info(name).function)  # reads the library's own files, which every evaluation digests


def _keep(asking):
    """Fork the kernel, tell how it ended, and end it when nobody asks for it any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, files, _, _ = socket.recv_fds(asking, 2**20, 3)
    while not text.endswith(b"\n"):
        text += asking.recv(2**20)
    kernel = os.fork()
    if kernel == 0:
        asking.close()
        _become_kernel(json.loads(text), files)
    for file in files:
        os.close(file)
    threading.Thread(target=_pass_on, args=(asking, kernel), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(kernel, 0)[1])
    try:
        asking.sendall(f"{code}\n".encode())
    except OSError:
        pass
    os._exit(0)


def _pass_on(asking, kernel):
    while asking.recv(1) == _INTERRUPT:
        os.kill(kernel, signal.SIGINT)
    os.kill(kernel, signal.SIGKILL)


def _become_kernel(given, files):
    code = 1
    try:
        os.setsid()
        for file, standard in zip(files, (0, 1, 2)):
            os.dup2(file, standard)
            os.close(file)
        os.chdir(given["folder"])
        os.environ.clear()
        os.environ.update(given["environment"])
        sys.argv = ["ipykernel_launcher", "-f", given["connection_file"]]
        sys.path[0] = ""  # as of `python -m`: the folder it works in

        from ipykernel.kernelapp import launch_new_instance

        launch_new_instance(parent_handle=os.getppid())
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# -- what Jupyter starts ------------------------------------------------------------------------------------------------


def ask(address, connection_file):
    """Have a kernel forked and end as it does; returns its exit code."""
    server = _reached(address)
    if server is None:
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", "-f", connection_file])
    given = {"connection_file": connection_file, "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(server, [b" "], [0, 1, 2])
    server.sendall(json.dumps(given).encode() + b"\n")
    signal.signal(signal.SIGINT, lambda *_: server.sendall(_INTERRUPT))
    parent, said = os.getppid(), b""
    while os.getppid() == parent:
        if select.select([server], [], [], 1)[0]:
            said += (part := server.recv(100))
            if part == _LOST or said.endswith(b"\n"):
                break
    code = int(said or 1)
    if code < 0:  # ended by a signal, and so does this process
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    return code


def _reached(address):
    """A connection, or None where nobody answers in time."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(address)
            return server
        except FileNotFoundError:
            server.close()
            time.sleep(0.05)
        except OSError:
            return None
    return None


if __name__ == "__main__":
    sys.exit(serve(*sys.argv[2:]) if sys.argv[1] == "serve" else ask(*sys.argv[1:]))
