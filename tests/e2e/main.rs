//! The gateway from outside: the real binary, real sockets, real clients.
//!
//! `kit` starts things and talks to them. The other modules are tests, a file for each
//! part of the gateway; those in `behaviour` hold the numbers that the gateway promises.

mod architecture;
mod bans;
mod basics;
mod behaviour;
mod carriers;
mod challenge;
mod client_certificates;
mod differential;
mod dyed;
mod handshakes;
mod kit;
mod load_report;
mod protocols;
mod quota;
mod recording;
mod scenario;
mod stapling;
mod streams;
mod upstream;
