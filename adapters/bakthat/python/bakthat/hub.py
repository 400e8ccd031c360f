# SPDX-License-Identifier: MIT OR Apache-2.0
"""The event hub: slots that hold callbacks (reference, section 14). Imports nothing of the package."""

from typing import Any, Callable, Dict, Iterator, List

EVENTS = tuple(
    f"{when}_{what}"
    for what in ("backup", "restore", "delete", "delete_older_than", "rotate_backups")
    for when in ("before", "on")
)


class EventSlot:
    """The callbacks of one event, called in the order of hooking."""

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.targets: List[Callable[..., Any]] = []

    def __repr__(self) -> str:
        return f"event '{self.__name__}'"

    def __iadd__(self, target: Callable[..., Any]) -> "EventSlot":
        self.targets.append(target)
        return self

    def __isub__(self, target: Callable[..., Any]) -> "EventSlot":
        self.targets[:] = [known for known in self.targets if known != target]
        return self

    def __call__(self, *arguments: Any, **named: Any) -> None:
        for target in tuple(self.targets):
            target(*arguments, **named)

    def __len__(self) -> int:
        return len(self.targets)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter(tuple(self.targets))

    def __getitem__(self, position: int) -> Callable[..., Any]:
        return self.targets[position]


class Events:
    """Any attribute that is read becomes a slot of that name."""

    def __getattr__(self, name: str) -> EventSlot:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__.setdefault(name, EventSlot(name))

    def _slots(self) -> Dict[str, EventSlot]:
        return {name: slot for name, slot in self.__dict__.items() if isinstance(slot, EventSlot)}

    def __len__(self) -> int:
        return len(self._slots())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[EventSlot]:
        return iter(self._slots().values())
