//! `Desired → Snapshot`: builds the indexes, and hands on what must outlive a snapshot.
