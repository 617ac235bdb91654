//! Sets of networks: sorted, merged ranges of addresses.

use std::net::IpAddr;

use ipnet::IpNet;

/// From so many IPv4 ranges on, a table by the upper 16 bits leads to the few among which an address is searched. It
/// takes 256 KiB, and saves most of a binary search through megabytes.
const INDEXED: usize = 4_096;

/// A set of networks. A list of millions costs 8 bytes for each IPv4 network and 32 for each IPv6 one, less what merges.
#[derive(Clone, Debug, Default)]
pub struct NetSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    /// For each value of the upper 16 bits, how many ranges begin below it.
    index: Option<Box<[u32]>>,
}

impl NetSet {
    /// The addresses of all `nets`. IPv4-mapped IPv6 networks count as IPv4.
    pub fn new(nets: &[IpNet]) -> Self {
        let mut builder = Builder::default();
        nets.iter().for_each(|net| builder.add(*net));
        builder.finish()
    }

    /// Whether `ip` is in one of the networks.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self.contains_v4(v4.to_bits()) || within(&self.v6, v4.to_ipv6_mapped().to_bits()),
            IpAddr::V6(v6) => within(&self.v6, v6.to_bits()),
        }
    }

    /// Whether there is no network at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Ranges that are left after merging.
    pub fn ranges(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Bytes of memory that it holds.
    pub fn bytes(&self) -> usize {
        let index = self.index.as_ref().map_or(0, |index| size_of_val(&**index));
        size_of_val(&*self.v4) + size_of_val(&*self.v6) + index
    }

    fn contains_v4(&self, bits: u32) -> bool {
        let Some(index) = &self.index else { return within(&self.v4, bits) };
        let upper = (bits >> 16) as usize;
        // The range before those that begin here may reach into here.
        let (first, end) = ((index[upper] as usize).saturating_sub(1), index[upper + 1] as usize);
        within(&self.v4[first..end], bits)
    }
}

/// Gathers networks for a set.
#[derive(Debug, Default)]
pub struct Builder {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Builder {
    /// One more.
    pub fn add(&mut self, net: IpNet) {
        match (net.network().to_canonical(), net.broadcast().to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => self.v4.push((first.to_bits(), last.to_bits())),
            _ => {
                let bits = |ip| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
                    IpAddr::V6(v6) => v6.to_bits(),
                };
                self.v6.push((bits(net.network()), bits(net.broadcast())));
            }
        }
    }

    /// Networks so far.
    pub fn networks(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The set.
    pub fn finish(mut self) -> NetSet {
        merge(&mut self.v4, |last| last.checked_add(1));
        merge(&mut self.v6, |last| last.checked_add(1));
        let index = (self.v4.len() >= INDEXED).then(|| {
            let mut at = 0;
            (0..=1_u64 << 16)
                .map(|upper| {
                    while self.v4.get(at).is_some_and(|range| u64::from(range.0) < upper << 16) {
                        at += 1;
                    }
                    at as u32 // There are at most 2^31 ranges that don't touch.
                })
                .collect()
        });
        NetSet { v4: self.v4, v6: self.v6, index }
    }
}

/// Sorts ranges, and makes one of those that overlap or touch.
fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>, after: impl Fn(T) -> Option<T>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let joins = after(kept.1).is_none_or(|after| next.0 <= after);
        if joins {
            kept.1 = kept.1.max(next.1);
        }
        joins
    });
    ranges.shrink_to_fit();
}

fn within<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= value);
    after > 0 && value <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_that_touch_become_one_range() {
        let nets = ["10.0.0.0/25", "10.0.0.128/25", "10.0.1.0/24", "255.255.255.255/32", "10.0.3.0/24"];
        let set = NetSet::new(&nets.map(|net| net.parse().unwrap()));

        assert_eq!(set.ranges(), 3);
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

        #[test]
        fn a_set_with_an_index_agrees_with_one_without(asked in any::<u32>(), seed in any::<u32>(), near in any::<bool>()) {
            let at = |n: u32| n.wrapping_mul(0x9e37_79b9).wrapping_add(seed);
            let mut builder = Builder::default();
            (0..INDEXED as u32 * 2).for_each(|n| builder.add(IpNet::new(IpAddr::V4(at(n).into()), 12 + (n % 21) as u8).unwrap()));
            let set = builder.finish();
            let plain = NetSet { index: None, ..set.clone() };
            let asked = if near { at(asked % INDEXED as u32).wrapping_add(asked >> 28) } else { asked };

            prop_assert_eq!(set.contains(IpAddr::V4(asked.into())), plain.contains(IpAddr::V4(asked.into())));
        }
    }
}
