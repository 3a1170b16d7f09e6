"""What workers are made to do in tests/test_workers.py; imported by the workers, which have no Keras."""

import os
import signal
import sys
import time


def double(request):
    return 2 * request


class After:
    """Answers so many requests, then goes wrong."""

    def __init__(self, answers, end):
        self.left, self.end = answers, end

    def __call__(self, request):
        self.left -= 1
        if self.left < 0:
            getattr(self, self.end)()
        return request

    def exit(self):
        os._exit(3)

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exception(self):
        raise ArithmeticError("the sum is wrong")

    def hang(self):
        time.sleep(1000)


def modules(request):
    print("what a library prints")
    return sorted({name.partition(".")[0] for name in sys.modules} & {"keras", "tensorflow", "jax", "torch"})


class Lines:
    """A layout whose worker goes wrong at the third batch."""

    def __init__(self, layout, end):
        self.layout, self.fault = layout, After(2, end)

    def __call__(self, request):
        self.fault(request)
        return self.layout(request)
