//! A request, top to bottom.
