//! Assembles the gateway, runs it, drains it, stops it.
