"""What Prometheus reads: the only place that imports its client."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_LATENCIES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one service; a registry of its own, so that several may live in one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self):
        self._registry = CollectorRegistry()
        mine = {"registry": self._registry, "namespace": "confp"}
        self._requests = Counter(
            "requests", "Answered requests.", ["route", "method", "status"], **mine
        )
        self._seconds = Histogram(
            "request_seconds", "From headers to answer.", ["route"], buckets=_LATENCIES_S, **mine
        )
        self._batches = Histogram(
            "batch_clips", "Clips that went through the model together.", buckets=_BATCHES, **mine
        )
        self._audio = Counter("audio_seconds", "Seconds of audio that were asked about.", **mine)
        self._verdicts = Counter("verdicts", "Answers by verdict.", ["verdict"], **mine)
        self._decoders = Counter("decoders_lost", "Decoders that a file ended.", **mine)

    def request(self, *, route: str, method: str, status: int, elapsed_s: float) -> None:
        """One request was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(elapsed_s)

    def batch(self, num_clips: int) -> None:
        """One batch went through the model."""
        self._batches.observe(num_clips)

    def answer(self, *, verdict: str, length_s: float) -> None:
        """A recording was looked up."""
        self._verdicts.labels(verdict).inc()
        self._audio.inc(length_s)

    def decoder_lost(self) -> None:
        """A worker process was replaced."""
        self._decoders.inc()

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, text, namespace="confp", registry=self._registry).set_function(value)

    def text(self) -> bytes:
        """Returns all of it in Prometheus's format."""
        return generate_latest(self._registry)
