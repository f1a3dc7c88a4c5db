"""How often a stranger may ask: a bucket of tokens for each address. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MOST_ADDRESSES = 1024


@dataclass
class _Bucket:
    tokens: float
    at_s: float


class Allowance:
    """Each address may spend `burst` at once and `rate_s` a second after that.

    Of more addresses than can be remembered, the one not heard of for longest is forgotten: who
    has that many needs another defence, and the memory stays small.
    """

    def __init__(self, burst: float, rate_s: float) -> None:
        self._burst, self._rate_s = burst, rate_s
        self._buckets: dict[str, _Bucket] = {}

    def spend(self, address: str, now_s: float) -> bool:
        """Whether the address may ask once; if so, it has one token less."""
        bucket = self._bucket(address, now_s)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def fine(self, address: str, tokens: float, now_s: float) -> None:
        """Take tokens away, also those it does not have yet: it waits the longer."""
        bucket = self._bucket(address, now_s)
        bucket.tokens = max(bucket.tokens - tokens, -self._burst)

    def _bucket(self, address: str, now_s: float) -> _Bucket:
        bucket = self._buckets.pop(address, None) or _Bucket(self._burst, now_s)
        bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._rate_s)
        bucket.at_s = now_s
        self._buckets[address] = bucket
        if len(self._buckets) > MOST_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return bucket
