"""What the server counts, in Prometheus's words."""

import prometheus_client

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Paths that are counted by themselves; all others count as one, so that a client that guesses paths cannot fill the memory.
_PATHS = ("/", "/healthz", "/metrics", "/openapi.json", "/v1/card", "/v1/translate", "/v1/translate/stream")


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self):
        self.registry = prometheus_client.CollectorRegistry()
        made = {"registry": self.registry, "namespace": "keras_transformer"}
        self._requests = prometheus_client.Counter(
            "requests", "Requests by path and status.", ["path", "status"], **made
        )
        self._seconds = prometheus_client.Histogram(
            "request_seconds", "Time to the end of the reply.", ["path"], buckets=_SECONDS, **made
        )
        self.in_progress = prometheus_client.Gauge("requests_in_progress", "Requests in progress.", **made)
        self.sentences = prometheus_client.Counter("sentences", "Sentences translated.", **made)
        self.batch_size = prometheus_client.Histogram(
            "batch_sentences", "Sentences searched together.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **made
        )
        self.waiting = prometheus_client.Gauge("sentences_waiting", "Sentences that wait for the model.", **made)

    def count_request(self, scope: dict, status: int | None, seconds: float) -> None:
        path = scope["path"]
        path = "/v1/models" if path.startswith("/v1/models/") else path if path in _PATHS else "other"
        self._requests.labels(path, str(status or 499)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_batch(self, size: int) -> None:
        self.sentences.inc(size)
        self.batch_size.observe(size)

    def text(self) -> tuple[bytes, str]:
        """All of it in Prometheus's text format, and its media type."""
        return prometheus_client.generate_latest(self.registry), prometheus_client.CONTENT_TYPE_LATEST
