//! The admin listener: metrics, health, snapshot, routes.
