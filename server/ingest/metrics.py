"""What ingest counts. Names follow Prometheus (https://prometheus.io/docs/practices/naming/)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class IngestMetrics:
    """One set of counters per registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.committed = Counter(
            "ostiary_events_committed_total", "Event lines committed", registry=registry
        )
        self.duplicates = Counter(
            "ostiary_events_duplicate_total", "Known event lines received again", registry=registry
        )
        self.refused = Counter(
            "ostiary_refusals_total",
            "Messages refused or lines missed, each one counted",
            ["kind"],
            registry=registry,
        )
        self.alarms = Counter(
            "ostiary_alarms_total", "Alarms recorded as events", ["kind"], registry=registry
        )
        self.dropped = Counter(
            "ostiary_messages_dropped_total",
            "Messages not taken in because the queue was full; agents send them again",
            registry=registry,
        )
        self.resends = Counter(
            "ostiary_resends_asked_total", "Times an agent was asked to resend", registry=registry
        )
        self.commit_failures = Counter(
            "ostiary_commit_failures_total", "Commits that failed", registry=registry
        )
        self.queue = Gauge(
            "ostiary_ingest_queue_messages", "Messages waiting to be verified", registry=registry
        )
        self.commit_seconds = Histogram(
            "ostiary_commit_seconds",
            "Duration of a commit",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5),
            registry=registry,
        )
        self.age_seconds = Histogram(
            "ostiary_event_age_seconds",
            "Age of an event, by its own time, when it is committed",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 60, 600, 3600, 86400),
            registry=registry,
        )
