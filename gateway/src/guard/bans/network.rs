//! Networks as keys of the table, and which prefix lengths it holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::lock;

/// A network: 17 bytes that sort by address. IPv4 is kept IPv4-mapped, so that its first 96 bits are the prefix of
/// `::ffff:0:0/96`; no IPv6 network lies in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    octets: [u8; 16],
    length: u8,
}

/// Bits before an IPv4 address that is written as an IPv6 one.
const MAPPED: u8 = 96;

impl Key {
    /// The network of `length` bits that `source` is in. An IPv4 source counts its own 32 bits.
    pub fn of(source: IpAddr, length: u8) -> Self {
        let (bits, length) = match source {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), MAPPED + length.min(32)),
            IpAddr::V6(v6) => (v6.to_bits(), length.min(128)),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Self { octets: (bits & mask).to_be_bytes(), length }
    }

    /// The network.
    pub fn net(&self) -> IpNet {
        let v6 = Ipv6Addr::from(self.octets);
        match v6.to_ipv4_mapped() {
            Some(v4) if self.length >= MAPPED => {
                Ipv4Net::new(v4, self.length - MAPPED).map_or_else(|_| IpNet::from(IpAddr::V4(v4)), IpNet::V4)
            }
            _ => Ipv6Net::new(v6, self.length).map_or_else(|_| IpNet::from(IpAddr::V6(v6)), IpNet::V6),
        }
    }

    fn is_ipv4(&self) -> bool {
        self.length >= MAPPED && Ipv6Addr::from(self.octets).to_ipv4_mapped().is_some()
    }

    /// A number that neighbours don't share. Attackers can crowd one part of the table with it, and gain nothing:
    /// parts have no bound of their own.
    pub fn spread(&self) -> u64 {
        let bits = u128::from_be_bytes(self.octets);
        let folded = (bits as u64) ^ ((bits >> 64) as u64) ^ u64::from(self.length);
        folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 // Fibonacci hashing: the upper bits are the mixed ones.
    }
}

impl From<IpNet> for Key {
    /// IPv4-mapped IPv6 networks count as IPv4. Host bits are dropped.
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self::of(v4.addr().into(), v4.prefix_len()),
            IpNet::V6(v6) => match v6.addr().to_ipv4_mapped() {
                Some(v4) if v6.prefix_len() >= MAPPED => Self::of(Ipv4Addr::into(v4), v6.prefix_len() - MAPPED),
                _ => Self::of(v6.addr().into(), v6.prefix_len()),
            },
        }
    }
}

/// Which prefix lengths there are, for each family: only those are looked up.
#[derive(Debug)]
pub struct Lengths {
    /// Bit n: there are networks of n bits.
    v4: AtomicU64,
    /// The same, 64 lengths in each word.
    v6: [AtomicU64; 3],
    /// Networks of each length: 33 of IPv4, then 129 of IPv6.
    counts: Mutex<[usize; 33 + 129]>,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { v4: AtomicU64::new(0), v6: Default::default(), counts: Mutex::new([0; 33 + 129]) }
    }
}

impl Lengths {
    /// Whether there is no network at all.
    pub fn is_empty(&self) -> bool {
        self.v4.load(Relaxed) == 0 && self.v6.iter().all(|word| word.load(Relaxed) == 0)
    }

    /// The lengths there are for the family of `source`.
    pub fn of(&self, source: IpAddr) -> impl Iterator<Item = u8> + use<> {
        let words = match source {
            IpAddr::V4(_) => [self.v4.load(Relaxed), 0, 0],
            IpAddr::V6(_) => self.v6.each_ref().map(|word| word.load(Relaxed)),
        };
        words.into_iter().zip([0, 64, 128]).flat_map(|(word, base)| {
            std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1))) // Drops the lowest bit.
                .take_while(|word| *word != 0)
                .map(move |word| base + word.trailing_zeros() as u8)
        })
    }

    /// Counts a network that came.
    pub fn one_more(&self, key: &Key) {
        self.count(key, |count| count + 1);
    }

    /// Counts one that went.
    pub fn one_less(&self, key: &Key) {
        self.count(key, |count| count.saturating_sub(1));
    }

    fn count(&self, key: &Key, change: impl Fn(usize) -> usize) {
        let mut counts = lock(&self.counts);
        let (word, length, slot) = match key.is_ipv4() {
            true => (&self.v4, key.length - MAPPED, usize::from(key.length - MAPPED)),
            false => (&self.v6[usize::from(key.length / 64)], key.length, 33 + usize::from(key.length)),
        };
        counts[slot] = change(counts[slot]);
        let bit = 1 << (length % 64);
        // Under the lock, so that a count and its bit never disagree for long.
        if counts[slot] > 0 {
            word.fetch_or(bit, Relaxed)
        } else {
            word.fetch_and(!bit, Relaxed)
        };
    }
}
