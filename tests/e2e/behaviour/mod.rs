//! How the gateway must behave, with numbers. `make bench` runs these at full size.

mod acme;
mod bad_clients;
mod certificates;
mod flood;
mod half_open;
mod health;
mod http2_abuse;
mod idle;
mod reload;
mod routes;
mod shadow;
mod slow;
mod split;
mod upgrade;
