"""Which individuals of an island no longer breed, as immigrants have drawn them to take their places.

A function of who is on the island, so all of its workers agree, whatever the order of arrival, and so does a resumed
search; nothing needs to be sent or written.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from sortedcontainers import SortedKeyList, SortedList


class RandomReplacement:
    """Each immigrant replaces an individual that was bred before it: the newest one up to a trial number drawn for it.

    The draw depends on nothing but seed, island and immigrant, so what arrives later seldom changes it. Two immigrants
    may draw the same individual; the oldest one of an island replaces nobody.

    Args:
        island: the island.
        seed: the study's seed.
    """

    def __init__(self, island: int, seed: int) -> None:
        self._island, self._seed = island, seed
        self._numbers: SortedList[int] = SortedList()
        self._draws: SortedKeyList[tuple[int, int]] = SortedKeyList(key=lambda draw: draw[0])  # drawn number, immigrant
        self._times: Counter[int] = Counter()  # how many immigrants replace each individual

    def replaces(self, number: int) -> bool:
        """Whether an immigrant replaces an individual."""
        return self._times[number] > 0

    def add(self, number: int, *, is_immigrant: bool) -> set[int]:
        """An individual arrives; the trials for which `replaces` may have changed."""
        before = self._newest(number)
        self._numbers.add(number)
        changed = {number, *self._pass(before, number, self._between(number))}
        if is_immigrant:
            drawn = self._draw(number)
            self._draws.add((drawn, number))
            changed.update(self._pass(None, self._newest(drawn), 1))
        return changed

    def remove(self, number: int, *, is_immigrant: bool) -> set[int]:
        """An individual leaves; the trials for which `replaces` may have changed."""
        changed: set[int] = set()
        if is_immigrant:
            drawn = self._draw(number)
            self._draws.remove((drawn, number))
            changed.update(self._pass(self._newest(drawn), None, 1))
        num_draws = self._between(number)
        self._numbers.remove(number)
        changed.update(self._pass(number, self._newest(number), num_draws))
        return changed - {number}

    def _draw(self, immigrant: int) -> int:
        return random.Random(f"{self._seed}/{self._island}/{immigrant}").randrange(-1, immigrant)

    def _newest(self, upto: int) -> int | None:
        """The newest individual whose number is at most this."""
        place = self._numbers.bisect_right(upto)
        return self._numbers[place - 1] if place else None

    def _between(self, number: int) -> int:
        """How many immigrants draw an individual that is here: from its number up to the next one."""
        place = self._numbers.bisect_right(number)
        end = self._draws.bisect_key_left(self._numbers[place]) if place < len(self._numbers) else len(self._draws)
        return int(end - self._draws.bisect_key_left(number))

    def _pass(self, old: int | None, new: int | None, times: int) -> Iterator[int]:
        """So many draws go from one individual to another."""
        if not times:
            return
        for number, change in ((old, -times), (new, times)):
            if number is not None:
                self._times[number] += change
                if not self._times[number]:
                    del self._times[number]
                yield number
