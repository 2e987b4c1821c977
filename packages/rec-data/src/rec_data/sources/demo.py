"""The embedded demo log: small, seeded, made in a second, and pointless to rank by popularity.

Items lie in genres. Inside a genre they form a ring, and a user mostly goes on to the next items of the ring,
sometimes strays inside the genre, and sometimes restarts in another of the few genres that the user likes. Nobody
meets an item twice, so removing seen items at evaluation costs nothing. Popular genres and ring heads give a mild
skew that popularity can see. Times are real: users arrive during the first 300 days and go on at a pace of their own,
so a cut in time meets many of them on their way.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VERSION = 1
"""Raise it whenever the same seed would give another log."""

START = 1_672_531_200
"""2023-01-01 00:00:00 UTC."""

_DAY = 86_400


@dataclass(frozen=True)
class DemoShape:
    """The size and the temper of the demo."""

    users: int = 4000
    genres: int = 40
    items_per_genre: int = 25
    mean_length: float = 22.0
    shortest: int = 5
    longest: int = 120
    favourites: int = 3
    """Genres that one user moves among."""

    follow: tuple[float, ...] = (0.32, 0.16, 0.10)
    """Probability of going 1, 2, 3 places on in the ring."""

    stray: float = 0.20
    """Probability of any item of the same genre; the rest restarts in a favourite genre."""

    arrival_days: int = 300


def generate(seed: int, shape: DemoShape | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Makes the demo log.

    Args:
        seed: Same seed, same log.
        shape: Its size; the default has 4,000 users, 1,000 items and about 90,000 interactions.

    Returns:
        ``user_id``, ``item_id`` and ``timestamp`` (Unix seconds), int64 arrays of one length, in order of time.
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
    # Ids in a log of one's own are neither dense nor sorted by meaning: neither are these.
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
    """All users walk one step at a time, together.

    Returns:
        [users, max(lengths)] items (genre * items_per_genre + place), -1 after a user's last step.
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
            move = np.searchsorted(cuts, rng.random(U))  # 0, 1, 2: so many places on; 3: stray; 4: restart
            restart, stray = move == len(shape.follow) + 1, move == len(shape.follow)
            other = likes[everyone, rng.integers(shape.favourites, size=U)]
            anywhere, entry = rng.integers(R, size=U), _entry(rng, R, U)
            genre = np.where(restart, other, genre)
            place = np.where(restart, entry, np.where(stray, anywhere, (place + move + 1) % R))
        for _ in range(G * R):  # whoever stands on a seen item goes on along the ring, then to the next genre
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
    """Where a restart enters a ring: the first places more often."""
    return np.minimum(rng.geometric(2.0 / places, size) - 1, places - 1)


def _times(rng: np.random.Generator, shape: DemoShape, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[users, max(lengths)] Unix seconds, strictly increasing along a user."""
    U = shape.users
    arrival = START + rng.integers(shape.arrival_days * _DAY, size=U)
    pace = rng.lognormal(np.log(2.0 * _DAY), 0.7, U)  # mean seconds between two steps of this user
    gaps = 1 + rng.exponential(1.0, (U, int(lengths.max()))) * pace[:, None]
    gaps[:, 0] = 0
    return arrival[:, None] + np.cumsum(np.ceil(gaps), axis=1).astype(np.int64)
