"""
What is usual for one agent, in one currency, in at most ``STATE_BYTES_MAX`` bytes.

Holds: the last ``RECENT_MAX`` payments (by a keyed mark of id and payload, so that a repeat is
known and nothing else passes for one; with the request's digest, for loops), sums of the last
minute and hour in buckets, what was paid lately for up to ``RESOURCES_MAX`` resources, payees
met for the first time, and the statistics of the score.

Known limits: a minute is twelve buckets of five seconds and an hour thirty of two minutes, so a
window is up to one bucket short; a payment sent again after ``RECENT_MAX`` others of its agent
is counted once more. Both err by a little scrutiny, never by money: sums that must hold are
limits in the ledger.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from hashlib import blake2b, sha256
from statistics import median_low
from typing import Final
from uuid import UUID

from tokenworks.agents.brake.model import Action, Subject
from tokenworks.agents.brake.scoring import FEATURES, Baseline, ScoreState

STATE_BYTES_MAX: Final = 4_096
RECENT_MAX: Final = 80
RESOURCES_MAX: Final = 12
STRANGERS_MAX: Final = 16
PRICES_MAX: Final = 5
MINUTE_BUCKETS: Final = 12
MINUTE_BUCKET_S: Final = 5
HOUR_BUCKETS: Final = 30
HOUR_BUCKET_S: Final = 120
_VERSION: Final = 1
_SUM_MAX: Final = 2**63 - 1
_COUNT_MAX: Final = 2**32 - 1
_SCORE_UNIT_PPM: Final = 1_000
_SCORE_MAX: Final = 2**16 - 1
MASK_64: Final = 2**64 - 1
_HEAD: Final = struct.Struct("<BBIdd" + "dd" * len(FEATURES))
_RING: Final = struct.Struct("<HHB")
_RESOURCE: Final = struct.Struct(f"<QB{PRICES_MAX}q")
_FLAGS: Final = {Action.ALLOW: 0, Action.HOLD: 1, Action.DENY: 2}
_ACTIONS: Final = tuple(_FLAGS)
_LEARNED: Final = 8


class ProfileUnreadableError(ValueError):
    """
    The stored bytes are not a profile of this version.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """
    What the profile remembers of a payment that was judged.
    """

    index: int
    action: Action
    score_ppm: int  # to a thousandth
    rules_version: int
    is_learned: bool


class Buckets:
    """
    Counts and sums over a sliding while, in buckets of equal length.
    """

    __slots__ = ("bucket_s", "counts", "last", "news", "sums")

    def __init__(self, count: int, bucket_s: int) -> None:
        self.bucket_s = bucket_s
        self.last = 0  # number of the newest bucket since 1970
        self.counts = array("I", bytes(4 * count))
        self.news = array("I", bytes(4 * count))
        self.sums = array("q", bytes(8 * count))

    def move_to(self, now_us: int) -> int:
        """
        Empty the buckets whose time has passed and return the place of the present one.

        A clock that is a little behind counts into the newest bucket.
        """
        number = now_us // (self.bucket_s * 1_000_000)
        size = len(self.counts)
        if number > self.last:
            for passed in range(max(self.last + 1, number - size + 1), number + 1):
                place = passed % size
                self.counts[place] = self.news[place] = self.sums[place] = 0
            self.last = number
        return self.last % size

    def add(self, now_us: int, quanta: int, *, is_new: bool) -> None:
        """
        Count one payment.
        """
        place = self.move_to(now_us)
        self.counts[place] = min(self.counts[place] + 1, _COUNT_MAX)
        self.news[place] = min(self.news[place] + is_new, _COUNT_MAX)
        self.sums[place] = min(self.sums[place] + quanta, _SUM_MAX)

    def encode(self) -> bytes:
        """
        Return the buckets as bytes of fixed length.
        """
        parts = (self.counts.tobytes(), self.news.tobytes(), self.sums.tobytes())
        return self.last.to_bytes(8, "little") + b"".join(parts)

    def decode(self, content: memoryview) -> memoryview:
        """
        Read what ``encode`` wrote; return the rest.
        """
        size = len(self.counts)
        if len(content) < 8 + 16 * size:
            message = "Buckets are cut short."
            raise ValueError(message)
        self.last = int.from_bytes(content[:8], "little")
        self.counts = array("I", content[8 : 8 + 4 * size].tobytes())
        self.news = array("I", content[8 + 4 * size : 8 + 8 * size].tobytes())
        self.sums = array("q", content[8 + 8 * size : 8 + 16 * size].tobytes())
        return content[8 + 16 * size :]


class Profile:
    """
    The state of one agent; read, changed and written again under its row's lock.
    """

    __slots__ = (
        "digests",
        "flags",
        "hour",
        "marks",
        "minute",
        "oldest",
        "resources",
        "score",
        "scores",
        "strangers",
        "times",
        "versions",
    )

    def __init__(self) -> None:
        self.score = ScoreState()
        self.minute = Buckets(MINUTE_BUCKETS, MINUTE_BUCKET_S)
        self.hour = Buckets(HOUR_BUCKETS, HOUR_BUCKET_S)
        self.oldest = 0  # where the next payment goes once the ring is full
        self.marks = array("Q")
        self.digests = array("Q")
        self.times = array("q")  # microseconds since 1970
        self.scores = array("H")
        self.versions = array("I")
        self.flags = array("B")
        # Payees that were judged and not paid yet: each is new once, however often it is tried.
        self.strangers: list[int] = []
        # Resource -> what was paid for it lately; the one used last stands last.
        self.resources: dict[int, list[int]] = {}

    # ------------------------------------------------------------------------ payments

    def find(self, mark: int) -> Judged | None:
        """
        Return what is remembered of a payment (``mark_of``), if it is one of the last.
        """
        try:
            index = self.marks.index(mark)
        except ValueError:
            return None
        flags = self.flags[index]
        return Judged(
            index=index,
            action=_ACTIONS[flags & 3],
            score_ppm=self.scores[index] * _SCORE_UNIT_PPM,
            rules_version=self.versions[index],
            is_learned=bool(flags & _LEARNED),
        )

    def add(
        self,
        subject: Subject,
        *,
        mark: int,
        now_us: int,
        is_new_payee: bool,
        action: Action,
        score_ppm: int,
        rules_version: int,
    ) -> None:
        """
        Count a payment that was judged, whatever the answer was: a loop of denied ones is one.
        """
        # A denied amount was never spent, so it does not use up the money of an hour.
        quanta = 0 if action is Action.DENY else subject.quanta
        self.minute.add(now_us, quanta, is_new=is_new_payee)
        self.hour.add(now_us, quanta, is_new=is_new_payee)
        row = (
            mark,
            int.from_bytes(subject.request_digest[:8], "little"),
            now_us,
            min(score_ppm // _SCORE_UNIT_PPM, _SCORE_MAX),
            rules_version & _COUNT_MAX,
            _FLAGS[action],
        )
        columns = (self.marks, self.digests, self.times, self.scores, self.versions, self.flags)
        if len(self.marks) < RECENT_MAX:
            for values, value in zip(columns, row, strict=True):
                values.append(value)
            return
        for values, value in zip(columns, row, strict=True):
            values[self.oldest] = value
        self.oldest = (self.oldest + 1) % RECENT_MAX

    def meet(self, payee: int) -> bool:
        """
        Return whether an unknown payee is met for the first time, as far as is remembered.
        """
        if payee in self.strangers:
            return False
        self.strangers = [*self.strangers[-(STRANGERS_MAX - 1) :], payee]
        return True

    def equal_calls(self, request_digest: bytes, *, now_us: int) -> list[int]:
        """
        Return how many microseconds ago the same request was judged, each time.
        """
        wanted = int.from_bytes(request_digest[:8], "little")
        if wanted not in self.digests:
            return []
        return [
            now_us - moment
            for digest, moment in zip(self.digests, self.times, strict=True)
            if digest == wanted
        ]

    def recent_times(self, count: int) -> list[int]:
        """
        Return when the last payments were judged, the newest last.
        """
        ordered = [*self.times[self.oldest :], *self.times[: self.oldest]]
        return ordered[-count:]

    def times_before(self, index: int, count: int) -> list[int]:
        """
        Return when the last payments up to the one at ``index`` were judged, itself last.
        """
        age = (index - self.oldest) % max(len(self.times), 1)
        return self.recent_times(len(self.times))[: age + 1][-count:]

    # ----------------------------------------------------------------------- learning

    def mark_learned(self, index: int) -> None:
        """
        Remember that a payment was learned from: once.
        """
        self.flags[index] |= _LEARNED

    def learn_price(self, resource: int, quanta: int) -> None:
        """
        Remember what was paid for a resource.
        """
        prices = self.resources.pop(resource, [])
        self.resources[resource] = [*prices[-(PRICES_MAX - 1) :], quanta]
        if len(self.resources) > RESOURCES_MAX:
            del self.resources[next(iter(self.resources))]

    def usual_price(self, resource: int) -> tuple[int, int] | None:
        """
        Return the median of what was paid for a resource lately, and of how many payments.
        """
        prices = self.resources.get(resource)
        return None if not prices else (median_low(prices), len(prices))

    # -------------------------------------------------------------------------- bytes

    def encode(self) -> bytes:
        """
        Return the profile as bytes.
        """
        state = self.score
        figures = [value for line in state.baselines for value in (line.location, line.scale)]
        parts = [
            _HEAD.pack(_VERSION, len(self.resources), state.count, state.novelty, 0.0, *figures),
            self.minute.encode(),
            self.hour.encode(),
            _RING.pack(len(self.marks), self.oldest, len(self.strangers)),
            array("Q", self.strangers).tobytes(),
        ]
        columns = (self.marks, self.digests, self.times, self.scores, self.versions, self.flags)
        parts.extend(values.tobytes() for values in columns)
        for resource, prices in self.resources.items():
            padded = prices + [0] * (PRICES_MAX - len(prices))
            parts.append(_RESOURCE.pack(resource, len(prices), *padded))
        content = b"".join(parts)
        assert len(content) <= STATE_BYTES_MAX, "a profile is bounded"
        return content

    @classmethod
    def decode(cls, content: bytes) -> Profile:
        """
        Read a profile; of no bytes, a new one.

        Raises:
            ProfileUnreadableError: The bytes are no profile: nobody may take them for an
                empty one, or damage would lower scrutiny.
        """
        profile = cls()
        if not content:
            return profile
        try:
            profile._read(content)
        except (struct.error, ValueError, IndexError, EOFError) as error:
            message = "A profile cannot be read."
            raise ProfileUnreadableError(message) from error
        return profile

    def _read(self, content: bytes) -> None:
        version, resources, count, novelty, _, *figures = _HEAD.unpack_from(content)
        if version != _VERSION:
            message = f"A profile has version {version}, not {_VERSION}."
            raise ProfileUnreadableError(message)
        self.score = ScoreState(
            count=count,
            novelty=novelty,
            baselines=[
                Baseline(location, scale)
                for location, scale in zip(figures[::2], figures[1::2], strict=True)
            ],
        )
        rest = memoryview(content)[_HEAD.size :]
        rest = self.hour.decode(self.minute.decode(rest))
        size, self.oldest, met = _RING.unpack_from(rest)
        rest = rest[_RING.size :]
        self.strangers = list(array("Q", rest[: met * 8].tobytes()))
        rest = rest[met * 8 :]
        for name, kind, width in (
            ("marks", "Q", 8),
            ("digests", "Q", 8),
            ("times", "q", 8),
            ("scores", "H", 2),
            ("versions", "I", 4),
            ("flags", "B", 1),
        ):
            values = array(kind, rest[: size * width].tobytes())
            if len(values) != size or size > RECENT_MAX or self.oldest >= RECENT_MAX:
                message = "A profile is cut short."
                raise ProfileUnreadableError(message)
            setattr(self, name, values)
            rest = rest[size * width :]
        if len(rest) != resources * _RESOURCE.size:
            message = "A profile is cut short, or goes on where it should end."
            raise ProfileUnreadableError(message)
        for place in range(resources):
            resource, known, *prices = _RESOURCE.unpack_from(rest, place * _RESOURCE.size)
            self.resources[resource] = prices[:known]


def tree_of(party_id: UUID) -> UUID:
    """
    Return the id of the profile that counts all payments below a party; no agent has it.
    """
    number = int.from_bytes(sha256(b"tokenworks-brake-tree\n" + party_id.bytes).digest()[:16])
    # RFC 9562 §5.8: version 8, the variant's two bits, the rest ours.
    number = number & ~(0xF << 76) | 0x8 << 76
    return UUID(int=number & ~(0b11 << 62) | 0b10 << 62)


def mark_of(subject: Subject, key: bytes) -> int:
    """
    Return the number by which a payment is known again: of its id and its whole payload.

    Keyed, because whoever pays chooses both: two payments with one number, which cost a day of
    hashing without the key, would let the second pass on the word for the first.
    """
    content = subject.payment_id.bytes + subject.digest
    return int.from_bytes(blake2b(content, digest_size=8, key=key).digest(), "little")


def resource_number(resource: str) -> int:
    """
    Return a number for a resource, the same in every process and on every machine.
    """
    return int.from_bytes(sha256(resource.encode()).digest()[:8], "little")
