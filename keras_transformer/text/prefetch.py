"""Batches laid out ahead of time by workers, in the order of the plan. Needs no Keras."""

# Batches ahead for each worker.
_AHEAD = 4


class Prefetch:
    """Gives the batches of a plan while workers make the next ones; after a jump in the plan it goes on from there.

    Args:
        workers: Workers whose job lays out a request.
    """

    def __init__(self, workers):
        self._workers = workers
        self._plan = None
        self._next = self._asked = 0  # places in the plan

    def get(self, plan, place, request):
        """The batch at that place of the plan; ``request(place)`` is what the workers are asked."""
        if plan is not self._plan or place != self._next:
            while self._workers.outstanding:
                self._workers.next()
            self._plan, self._next, self._asked = plan, place, place
        while self._asked < len(plan) and self._asked < place + _AHEAD * len(self._workers.pids):
            self._workers.ask(request(self._asked))
            self._asked += 1
        self._next = place + 1
        return self._workers.next()

    @property
    def pids(self):
        return self._workers.pids

    def close(self):
        self._workers.close()
