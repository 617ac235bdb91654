//! The engine against real sockets: what it counts, and what it says of targets that misbehave.

mod counts;
mod distributed;
mod failures;
mod http2;
mod kit;
mod pause;
mod tls;
