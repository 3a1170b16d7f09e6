"""The limits of a server, each with its reason."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a server behaves; the command line sets each.

    Attributes:
        beam_size: of requests that name none.
        batch_tokens: positions searched at a time: sentences, filled up to the longest, times the beam.
        batch_delay: seconds that a lone sentence waits for company.
        max_waiting_tokens: positions that may wait before a request is refused with 429.
        max_concurrency: requests in progress before one is refused with 429.
        max_body: bytes of a request before it is refused with 413.
        max_texts: texts of a request before it is refused with 422.
        max_pieces: pieces of a text before it is refused with 422; attention costs their square.
        timeout: seconds after which a request gets 503.
        warm_up: whether the server translates something for itself before it takes requests.
        api_key: what the header Authorization must hold behind "Bearer "; None asks for none.
    """

    beam_size: int = 4
    batch_tokens: int = 4096
    batch_delay: float = 0.005
    max_waiting_tokens: int = 65_536
    max_concurrency: int = 256
    max_body: int = 1_000_000
    max_texts: int = 256
    max_pieces: int = 256
    timeout: float = 30.0
    warm_up: bool = True
    api_key: str | None = None
