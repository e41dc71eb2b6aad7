"""The tables of index.sqlite (FORMAT.md); those for crops are in crop_index.py."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE session (
    id INTEGER PRIMARY KEY, started TEXT NOT NULL, provenance TEXT NOT NULL
);
CREATE TABLE clip (
    clip TEXT NOT NULL, status TEXT NOT NULL, track INTEGER NOT NULL, message TEXT NOT NULL,
    frames INTEGER NOT NULL, valid_frames INTEGER NOT NULL, claimed_frames INTEGER,
    fps REAL, duration_s REAL, width INTEGER, height INTEGER, rotation INTEGER NOT NULL,
    decoder TEXT NOT NULL, content_sha256 TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, start INTEGER, rows_sha256 TEXT NOT NULL,
    session INTEGER NOT NULL REFERENCES session (id), details TEXT NOT NULL,
    PRIMARY KEY (clip, track)
) WITHOUT ROWID;
CREATE INDEX clip_by_start ON clip (start) WHERE start IS NOT NULL;
CREATE TABLE pending (
    id INTEGER PRIMARY KEY, clip TEXT NOT NULL, track INTEGER NOT NULL, frames INTEGER NOT NULL,
    record TEXT NOT NULL, UNIQUE (clip, track)
);
CREATE TABLE pending_rows (
    pending INTEGER NOT NULL REFERENCES pending (id), part INTEGER NOT NULL,
    rows INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (pending, part)
);
CREATE TABLE moved (
    clip TEXT NOT NULL, track INTEGER NOT NULL, start INTEGER NOT NULL, PRIMARY KEY (clip, track)
) WITHOUT ROWID;
"""
