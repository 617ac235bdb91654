//! The door through real sockets, with a small carrier that answers what it was given.

mod http1;
mod kit;
mod lifecycle;
mod opening;
