"""A writer that appends until it is killed: ``python store_victim.py STORE FIRST_CLIP``."""

import sys

import store_clips as clips

import store


def main(path: str, first: int) -> None:
    with store.Writer(path, clips.PROVENANCE, layout=clips.TINY) as writer:
        print("open", flush=True)
        for number in range(first, first + 10_000):
            rows = clips.rows(1 + number % 7, seed=number)
            writer.append(clips.record(f"{number}", rows), rows)
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
