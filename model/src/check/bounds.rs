//! Bounds that hold for the whole process.

use crate::config::{At, Bounds};
use crate::desired;
use crate::literal::Whole;

/// Fills in what wasn't written.
pub(super) fn check(written: &Bounds) -> desired::Bounds {
    let default = desired::Bounds::default();
    let many = |written: &Option<At<Whole<1, 1_000_000>>>, default: usize| {
        written.as_ref().map_or(default, |number| number.value.0 as usize)
    };
    let per_source = written
        .connections_per_source
        .as_ref()
        .map_or(default.connections_per_source, |number| number.value.0 as usize);
    desired::Bounds {
        shadow_bytes: written.shadow_bytes.as_ref().map_or(default.shadow_bytes, |size| size.value.0),
        limit_keys: written.limit_keys.as_ref().map_or(default.limit_keys, |keys| keys.value.0 as usize),
        bans: written.bans.as_ref().map_or(default.bans, |bans| bans.value.0 as usize),
        connections: written.connections.as_ref().map_or(default.connections, |number| number.value.0 as usize),
        connections_per_source: per_source,
        // A network that isn't spoken of holds at least one source that may fill its own bound.
        connections_per_network: written
            .connections_per_network
            .as_ref()
            .map_or(default.connections_per_network.max(per_source), |number| number.value.0 as usize),
        handshakes: many(&written.handshakes, default.handshakes),
        handshakes_per_source: many(&written.handshakes_per_source, default.handshakes_per_source),
        handshakes_per_network: many(&written.handshakes_per_network, default.handshakes_per_network),
    }
}
