//! Allow and deny lists, and sets of networks.

use std::net::IpAddr;

use ipnet::IpNet;
use tidegate_model::desired::Access;

/// A set of networks: sorted, merged ranges, so that a list of 100,000 networks costs a binary search.
#[derive(Clone, Debug, Default)]
pub struct NetSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl NetSet {
    /// The addresses of all `nets`. IPv4-mapped IPv6 networks count as IPv4.
    pub fn new(nets: &[IpNet]) -> Self {
        let mut set = Self::default();
        for net in nets {
            match (net.network().to_canonical(), net.broadcast().to_canonical()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => set.v4.push((first.to_bits(), last.to_bits())),
                _ => {
                    let bits = |ip| match ip {
                        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
                        IpAddr::V6(v6) => v6.to_bits(),
                    };
                    set.v6.push((bits(net.network()), bits(net.broadcast())));
                }
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }

    /// Whether `ip` is in one of the networks.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(v4) => within(&self.v4, v4.to_bits()) || within(&self.v6, v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => within(&self.v6, v6.to_bits()),
        }
    }

    /// Whether there is no network at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
}

fn within<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= value);
    after > 0 && value <= ranges[after - 1].1
}

/// [`Access`], ready for requests.
#[derive(Clone, Debug, Default)]
pub struct AccessList {
    allow: NetSet,
    deny: NetSet,
}

impl AccessList {
    /// Prepares `access`.
    pub fn new(access: &Access) -> Self {
        Self { allow: NetSet::new(&access.allow), deny: NetSet::new(&access.deny) }
    }

    /// Whether `client` may come in. Deny wins; an empty allow list allows everybody.
    pub fn admits(&self, client: IpAddr) -> bool {
        !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(allow: &[&str], deny: &[&str]) -> AccessList {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        AccessList::new(&Access { allow: nets(allow), deny: nets(deny) })
    }

    #[test]
    fn deny_wins_over_allow_and_an_empty_allow_list_allows_everybody() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();

        assert!(list(&[], &[]).admits(ip("192.0.2.1")));
        assert!(!list(&[], &["192.0.2.0/24"]).admits(ip("::ffff:192.0.2.1")));
        assert!(list(&["192.0.2.0/24"], &["192.0.2.7/32"]).admits(ip("192.0.2.8")));
        assert!(!list(&["192.0.2.0/24"], &["192.0.2.7/32"]).admits(ip("192.0.2.7")));
        assert!(!list(&["192.0.2.0/24"], &[]).admits(ip("2001:db8::1")));
        assert!(list(&["::/0"], &[]).admits(ip("192.0.2.1")), "::/0 covers the mapped form of every IPv4 address");
    }

    proptest! {
        #[test]
        fn a_set_of_networks_agrees_with_asking_each(nets in prop::collection::vec((0u32..64, 24u8..=32), 0..12), ip in 0u32..64) {
            let spread = |n: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 37);
            let nets: Vec<IpNet> =
                nets.iter().map(|&(n, len)| IpNet::new(spread(n).into(), len).unwrap().trunc()).collect();
            let ip = IpAddr::from(spread(ip));

            prop_assert_eq!(NetSet::new(&nets).contains(ip), nets.iter().any(|net| net.contains(&ip)));
        }
    }
}
