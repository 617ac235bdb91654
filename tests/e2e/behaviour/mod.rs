//! How the gateway must behave, with numbers. `make bench` runs these at full size.

mod acme;
mod bad_clients;
mod certificates;
mod flood;
mod health;
mod reload;
mod routes;
mod shadow;
mod split;
mod upgrade;
