//! Where configurations come from: a file or folder, watched; and the history on disk.
