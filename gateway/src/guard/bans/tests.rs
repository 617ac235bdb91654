use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(seconds)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

const HOUR: Duration = Duration::from_secs(3_600);

fn table() -> Bans {
    Bans::new(1_700_000_000_000)
}

fn rule(lasts: u64, up_to: u64) -> desired::Ban {
    desired::Ban {
        lasts: Duration::from_secs(lasts),
        after: 1,
        window: Duration::from_secs(1),
        up_to: Duration::from_secs(up_to),
    }
}

#[test]
fn networks_of_any_length_are_banned_until_their_time_is_over() {
    let bans = table();
    for network in ["203.0.113.0/24", "192.0.2.7", "2001:db8:1::/48", "::ffff:10.9.0.0/112"] {
        let network = network.parse().unwrap_or_else(|_| IpNet::from(ip(network)));
        bans.add(network, HOUR, "test", at(0)).unwrap();
    }

    for inside in ["203.0.113.255", "::ffff:203.0.113.1", "192.0.2.7", "2001:db8:1:ffff::1", "10.9.8.7"] {
        assert!(bans.until(ip(inside), at(3_599)).is_some(), "{inside}");
        assert!(bans.until(ip(inside), at(3_600)).is_none(), "{inside}");
    }
    for outside in ["203.0.114.0", "192.0.2.8", "2001:db8:2::1", "10.10.0.1", "::1"] {
        assert!(bans.until(ip(outside), at(1)).is_none(), "{outside}");
    }
}

#[test]
fn the_longest_of_several_bans_counts() {
    let bans = table();
    bans.add(net("10.0.0.0/8"), HOUR, "all", at(0)).unwrap();
    bans.add(net("10.0.0.1/32"), HOUR * 2, "one", at(0)).unwrap();

    assert_eq!(bans.until(ip("10.0.0.1"), at(0)), Some(at(7_200)));
    assert_eq!(bans.until(ip("10.0.0.2"), at(0)), Some(at(3_600)));
}

#[test]
fn a_ban_doubles_each_time_up_to_its_cap_and_is_forgotten_after_good_behaviour() {
    let bans = table();
    let rule = rule(600, 2_000);
    let lasts =
        |now: u64| bans.punish(ip("192.0.2.1"), (32, 64), &rule, "per_ip", at(now)).unwrap().since(at(now)).as_secs();

    assert_eq!(lasts(0), 600);
    assert_eq!(lasts(700), 1_200);
    assert_eq!(lasts(2_000), 2_000);
    assert_eq!(lasts(5_999), 2_000, "remembered until 2,000 s after its end");
    assert_eq!(lasts(10_100), 600);
}

#[test]
fn a_ban_without_a_cap_of_its_own_does_not_grow() {
    let bans = table();

    let first = bans.punish(ip("192.0.2.1"), (32, 64), &rule(60, 60), "per_ip", at(0)).unwrap();
    let second = bans.punish(ip("192.0.2.1"), (32, 64), &rule(60, 60), "per_ip", at(61)).unwrap();

    assert_eq!((first.since(at(0)).as_secs(), second.since(at(61)).as_secs()), (60, 60));
}

#[test]
fn punishing_who_is_banned_already_changes_nothing() {
    let bans = table();
    let first = bans.punish(ip("192.0.2.1"), (32, 64), &rule(600, 6_000), "per_ip", at(0));

    let again = bans.punish(ip("192.0.2.1"), (32, 64), &rule(600, 6_000), "login", at(10));

    assert_eq!(first, again);
    assert_eq!(bans.page(None, None, 9, at(10))[0].times, 1);
}

#[test]
fn an_ipv6_source_is_banned_with_its_whole_prefix() {
    let bans = table();

    bans.punish(ip("2001:db8::1"), (32, 64), &rule(600, 600), "per_ip", at(0));

    assert!(bans.until(ip("2001:db8::ffff:ffff"), at(1)).is_some());
    assert!(bans.until(ip("2001:db8:0:1::1"), at(1)).is_none());
}

#[test]
fn a_trusted_proxy_is_never_banned() {
    let bans = table();
    bans.spare(NetSet::new(&[net("10.0.0.0/24")]));

    assert_eq!(bans.punish(ip("10.0.0.9"), (32, 64), &rule(600, 600), "per_ip", at(0)), None);
    assert!(bans.add(net("10.0.0.9/32"), HOUR, "by hand", at(0)).is_err());
    bans.add(net("10.0.0.0/8"), HOUR, "by hand", at(0)).unwrap();

    assert!(bans.until(ip("10.0.0.9"), at(0)).is_none());
    assert!(bans.until(ip("10.0.1.9"), at(0)).is_some());
}

#[test]
fn a_full_table_forgets_what_ends_soonest() {
    let bans = table();
    bans.set_bound(100);
    for n in 0..100 {
        bans.add(IpNet::from(IpAddr::from([10, 0, 0, n])), HOUR + Duration::from_secs(n.into()), "x", at(0)).unwrap();
    }

    bans.add(net("192.0.2.1/32"), HOUR * 2, "x", at(0)).unwrap();

    assert_eq!(bans.len(), 100);
    assert!(bans.until(ip("10.0.0.0"), at(0)).is_none() && bans.until(ip("10.0.0.1"), at(0)).is_some());
    assert!(bans.until(ip("192.0.2.1"), at(0)).is_some());
    bans.set_bound(10);
    assert_eq!(bans.len(), 10);
    assert!(bans.until(ip("10.0.0.99"), at(0)).is_some());
}

#[test]
fn what_is_over_is_swept_away_and_leaves_nothing_to_look_up() {
    let bans = table();
    bans.add(net("192.0.2.0/24"), HOUR, "x", at(0)).unwrap();

    bans.sweep(0..SHARDS, bans.unix(at(3_601)));

    assert!(bans.is_empty() && bans.lengths.is_empty());
}

#[test]
fn pages_follow_each_other_without_a_gap_and_a_question_for_one_address_finds_its_bans() {
    let bans = table();
    for n in 0..25 {
        bans.add(IpNet::from(IpAddr::from([10, 0, n, 1])), HOUR, "x", at(0)).unwrap();
    }
    bans.add(net("10.0.7.0/24"), HOUR, "net", at(0)).unwrap();

    let mut seen = Vec::new();
    loop {
        let page = bans.page(seen.last().copied(), None, 10, at(1));
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|ban| ban.network));
    }
    let covering = bans.page(None, Some(ip("10.0.7.1")), 10, at(1));

    assert_eq!(seen.len(), 26);
    assert!(seen.is_sorted_by_key(|net| net.network()));
    assert_eq!(covering.iter().map(|ban| ban.network.to_string()).collect::<Vec<_>>(), ["10.0.7.0/24", "10.0.7.1/32"]);
}

#[test]
fn a_reason_is_one_line_of_bounded_length() {
    let bans = table();

    let ban = bans.add(net("192.0.2.1/32"), HOUR, &format!("a\nb{}", "x".repeat(1_000)), at(0)).unwrap();

    assert!(ban.reason.starts_with("abx") && ban.reason.len() == REASON_LENGTH);
}

proptest! {
    #[test]
    fn the_table_agrees_with_asking_each_network(
        nets in prop::collection::vec((0u32..64, 20u8..=32, any::<bool>()), 0..20), asked in 0u32..64, v6 in any::<bool>(),
    ) {
        let spread = |n: u32, v6: bool| -> IpAddr {
            let v4 = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 997);
            if v6 { (0x2001_0db8_u128 << 96 | u128::from(v4.to_bits()) << 64).to_be_bytes().into() } else { v4.into() }
        };
        let nets: Vec<IpNet> = nets
            .iter()
            .map(|&(n, len, v6)| IpNet::new(spread(n, v6), if v6 { len + 32 } else { len }).unwrap().trunc())
            .collect();
        let bans = table();
        for net in &nets {
            bans.add(*net, HOUR, "x", at(0)).unwrap();
        }
        let asked = spread(asked, v6);

        prop_assert_eq!(bans.until(asked, at(1)).is_some(), nets.iter().any(|net| net.contains(&asked)));
        for net in &nets {
            bans.remove(*net);
        }
        prop_assert!(bans.lengths.is_empty() && bans.is_empty());
    }
}
