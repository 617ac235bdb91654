//! What a client counts as: a source, and the network it comes from.
//!
//! A source is an IPv4 address, or the IPv6 prefix that one customer is given (`client_ip.v6_prefix`, usually /64). A
//! network is an IPv4 /24 or an IPv6 /48: what an attacker who owns more than one source usually owns, since a site is
//! assigned a /48 (RFC 6177 §2) and no IPv4 route is longer than a /24.

use std::net::IpAddr;

/// Leading bits of an IPv4 network.
const V4_NETWORK: u32 = 24;

/// Leading bits of an IPv6 network.
const V6_NETWORK: u32 = 48;

/// See the module. Both are numbers: IPv4 as its mapped IPv6 address, and the bits that don't count as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The address, or IPv6 prefix.
    pub key: u128,
    /// The network around it.
    pub network: u128,
}

impl Source {
    /// The source that `address` belongs to, where IPv6 sources are told apart by `v6_prefix` leading bits.
    pub fn of(address: IpAddr, v6_prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let key = v4.to_ipv6_mapped().to_bits();
                Self { key, network: leading(key, 96 + V4_NETWORK) }
            }
            IpAddr::V6(v6) => {
                let prefix = u32::from(v6_prefix.min(128));
                Self { key: leading(v6.to_bits(), prefix), network: leading(v6.to_bits(), V6_NETWORK.min(prefix)) }
            }
        }
    }
}

/// Which of 16 parts of a table `key` belongs to. Neighbours are spread, and keys differ in any of their bits
/// (Fibonacci hashing; Knuth, The Art of Computer Programming 3, §6.4).
pub fn shard(key: u128) -> usize {
    let folded = key as u64 ^ (key >> 64) as u64;
    (folded.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as usize
}

/// `bits` with all but the first `count` zero.
fn leading(bits: u128, count: u32) -> u128 {
    let hidden = 128 - count;
    bits.checked_shr(hidden).unwrap_or(0).checked_shl(hidden).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Source {
        Source::of(address.parse().unwrap(), 64)
    }

    #[test]
    fn an_ipv4_source_is_an_address_and_its_network_a_slash_24() {
        assert_ne!(of("192.0.2.1").key, of("192.0.2.2").key);
        assert_eq!(of("192.0.2.1").network, of("192.0.2.254").network);
        assert_ne!(of("192.0.2.1").network, of("192.0.3.1").network);
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn an_ipv6_source_is_its_prefix_and_its_network_a_slash_48_at_most() {
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1").key, of("2001:db8:0:1::1").key);
        assert_eq!(of("2001:db8::1").network, of("2001:db8:0:1::1").network);
        assert_ne!(of("2001:db8::1").network, of("2001:db8:1::1").network);
        let coarse = Source::of("2001:db8::1".parse().unwrap(), 32);
        assert_eq!(coarse.key, coarse.network);
    }

    #[test]
    fn networks_are_spread_over_all_shards() {
        let v4 = (0..=255).map(|n| of(&format!("10.0.{n}.1")).network);
        let v6 = (0..=255).map(|n| of(&format!("2001:db8:{n:x}::1")).network);

        for keys in [v4.collect::<Vec<_>>(), v6.collect()] {
            let mut hit = [0; 16];
            keys.into_iter().for_each(|key| hit[shard(key)] += 1);
            assert!(hit.iter().all(|count| (4..=40).contains(count)), "{hit:?}");
        }
    }
}
