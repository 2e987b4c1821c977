"""The embedded demo log: small, seeded, generated in a second, and hardly predictable by popularity.

Items belong to genres, and the items of a genre form a ring. A user usually moves to one of the next items of the ring,
sometimes to any item of the genre, and sometimes to another of the user's few favourite genres. No user meets an item
twice, so removing seen items at evaluation costs nothing. Popular genres and ring heads give popularity a mild skew.
Users arrive during the first 300 days and proceed at their own pace, so a split in time divides many histories.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VERSION = 1
"""To be raised whenever the same seed would give another log."""

START = 1_672_531_200
"""2023-01-01 00:00:00 UTC."""

_DAY = 86_400


@dataclass(frozen=True)
class DemoShape:
    """The size of the demo and the behaviour of its users."""

    users: int = 4000
    genres: int = 40
    items_per_genre: int = 25
    mean_length: float = 22.0
    shortest: int = 5
    longest: int = 120
    favourites: int = 3
    """Genres that one user moves between."""
    follow: tuple[float, ...] = (0.32, 0.16, 0.10)
    """Probabilities of moving 1, 2 or 3 places along the ring."""
    stray: float = 0.20
    """Probability of moving to any item of the same genre; otherwise the user restarts in a favourite genre."""
    arrival_days: int = 300


def generate(seed: int, shape: DemoShape | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Generate the demo log; equal seeds give equal logs.

    By default it has 4,000 users, 1,000 items and about 90,000 interactions.

    Returns:
        ``user_id``, ``item_id`` and ``timestamp`` (Unix seconds), int64 arrays of equal length, in order of time.
    """
    shape = shape or DemoShape()
    rng = np.random.default_rng([VERSION, seed])
    lengths = _lengths(rng, shape)
    steps = _walk(rng, shape, lengths)  # [U, longest] dense items, -1 after a user's end
    times = _times(rng, shape, lengths)  # [U, longest]

    alive = steps >= 0
    users = np.broadcast_to(np.arange(shape.users)[:, None], steps.shape)[alive]
    items, times = steps[alive], times[alive]
    order = np.lexsort((np.arange(users.size), times))
    # As in real logs, ids are neither dense nor sorted by meaning.
    user_names = rng.permutation(shape.users) + 1
    item_names = rng.permutation(shape.genres * shape.items_per_genre) + 100_001
    return {
        "user_id": user_names[users[order]].astype(np.int64),
        "item_id": item_names[items[order]].astype(np.int64),
        "timestamp": times[order].astype(np.int64),
    }


def _lengths(rng: np.random.Generator, shape: DemoShape) -> npt.NDArray[np.int64]:
    sigma = 0.6
    drawn = rng.lognormal(np.log(shape.mean_length) - sigma**2 / 2, sigma, shape.users)
    return np.clip(np.rint(drawn), shape.shortest, shape.longest).astype(np.int64)


def _walk(rng: np.random.Generator, shape: DemoShape, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Simulate all users together, one step at a time.

    Items, ``[users, max(lengths)]``, are ``genre * items_per_genre + place``, and -1 after a user's last step.
    """
    U, G, R = shape.users, shape.genres, shape.items_per_genre
    popularity = 1.0 / np.sqrt(1.0 + np.arange(G))
    likes = np.argsort(rng.random((U, G)) ** (1.0 / popularity), axis=1)[:, -shape.favourites :]  # [U, favourites]
    everyone = np.arange(U)
    seen = np.zeros((U, G * R), dtype=bool)
    steps = np.full((U, int(lengths.max())), -1, dtype=np.int64)
    cuts = np.cumsum((*shape.follow, shape.stray))

    genre = likes[:, -1]
    place = _entry(rng, R, U)
    for step in range(steps.shape[1]):
        if step:
            move = np.searchsorted(cuts, rng.random(U))  # 0, 1, 2: places along the ring; 3: stray; 4: restart
            restart, stray = move == len(shape.follow) + 1, move == len(shape.follow)
            other = likes[everyone, rng.integers(shape.favourites, size=U)]
            anywhere, entry = rng.integers(R, size=U), _entry(rng, R, U)
            genre = np.where(restart, other, genre)
            place = np.where(restart, entry, np.where(stray, anywhere, (place + move + 1) % R))
        for _ in range(G * R):  # from a seen item move along the ring, then to the next genre
            met = seen[everyone, genre * R + place]
            if not met.any():
                break
            full = met & (seen.reshape(U, G, R)[everyone, genre].all(axis=1))
            genre = np.where(full, (genre + 1) % G, genre)
            place = np.where(met & ~full, (place + 1) % R, place)
        alive = step < lengths
        item = genre * R + place
        steps[alive, step] = item[alive]
        seen[everyone[alive], item[alive]] = True
    return steps


def _entry(rng: np.random.Generator, places: int, size: int) -> npt.NDArray[np.int64]:
    """Draw the places at which users enter a ring; the first places are more likely."""
    return np.minimum(rng.geometric(2.0 / places, size) - 1, places - 1)


def _times(rng: np.random.Generator, shape: DemoShape, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Draw ``[users, max(lengths)]`` Unix seconds, strictly increasing within each user."""
    U = shape.users
    arrival = START + rng.integers(shape.arrival_days * _DAY, size=U)
    pace = rng.lognormal(np.log(2.0 * _DAY), 0.7, U)  # mean seconds between two steps of this user
    gaps = 1 + rng.exponential(1.0, (U, int(lengths.max()))) * pace[:, None]
    gaps[:, 0] = 0
    return arrival[:, None] + np.cumsum(np.ceil(gaps), axis=1).astype(np.int64)
