//! Shadow copies of live requests: bounded, discarded or compared, never waited for.
