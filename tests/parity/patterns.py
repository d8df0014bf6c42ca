"""Checks by what a file's kind begins with, where its end tells sizes or options."""

import re
from collections.abc import Callable, Iterator, Mapping

from fixture import Fixture

Check = Callable[[Fixture], None]


class Patterns(Mapping[str, Check]):
    """A kind -> the check of the first regular expression that matches its beginning."""

    def __init__(self, checks: dict[str, Check]) -> None:
        self.checks = {re.compile(pattern): check for pattern, check in checks.items()}

    def __getitem__(self, kind: str) -> Check:
        for pattern, check in self.checks.items():
            if pattern.match(kind):
                return check
        raise KeyError(kind)

    def __iter__(self) -> Iterator[str]:
        return (pattern.pattern for pattern in self.checks)

    def __len__(self) -> int:
        return len(self.checks)
