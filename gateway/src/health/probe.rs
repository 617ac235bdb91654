//! Active probes.
