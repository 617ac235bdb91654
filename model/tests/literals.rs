//! Literals mean what was written, and what is written back is read the same.

use std::time::Duration;

use proptest::prelude::*;
use tidegate_model::desired::{Ban, FailureRate, HostPattern, PathPattern, Weight};
use tidegate_model::literal::{
    BanFor, Bind, EndpointAddress, FailureShare, HostMatch, Literal, Network, Origin, PathMatch, Rate, Sample, Size,
    Time, TimeOrZero, WeightOf, write_duration,
};

fn read<T: Literal>(text: &str) -> T {
    T::parse(text).unwrap_or_else(|wrong| panic!("{text:?}: {wrong:?}"))
}

#[test]
fn durations_add_up() {
    for (text, millis) in
        [("2s", 2_000), ("250ms", 250), ("1h30m", 5_400_000), ("1.5s", 1_500), ("1d", 86_400_000), ("1m0s", 60_000)]
    {
        assert_eq!(read::<Time>(text).0, Duration::from_millis(millis), "{text}");
    }
    assert_eq!(read::<TimeOrZero>("0").0, Duration::ZERO);
}

#[test]
fn sizes_and_samples_are_exact() {
    for (text, bytes) in [("512", 512), ("512B", 512), ("64KiB", 65_536), ("1.5MiB", 1_572_864), ("10MB", 10_000_000)] {
        assert_eq!(read::<Size>(text).0, bytes, "{text}");
    }
    for (text, hundredths) in
        [("10%", 1_000), ("0.5%", 50), ("0.01%", 1), ("500%", 50_000), ("33.33 %", 3_333), ("0%", 0)]
    {
        assert_eq!(read::<Sample>(text).0, hundredths, "{text}");
    }
}

#[test]
fn rates_are_spread_evenly() {
    for (text, interval) in
        [("50/s", Duration::from_millis(20)), ("5/m", Duration::from_secs(12)), ("20/10s", Duration::from_millis(500))]
    {
        assert_eq!(read::<Rate>(text).interval(), interval, "{text}");
    }
}

#[test]
fn a_ban_has_defaults_for_when_it_begins() {
    let window = Duration::from_secs(10);

    let lasts = Duration::from_secs(600);
    assert_eq!(read::<BanFor>("ban 10m").0, Ban { lasts, after: 20, window, up_to: lasts });
    let lasts = Duration::from_secs(3_600);
    let written = Ban { lasts, after: 3, window: Duration::from_secs(60), up_to: lasts };
    assert_eq!(read::<BanFor>("ban 1h after 3 in 1m").0, written);
    assert_eq!(read::<BanFor>("ban 1h after 3 in 1m up to 8h").0, Ban { up_to: lasts * 8, ..written });
    assert_eq!(read::<BanFor>("ban 1h up to 8h").0.repeated(3), lasts * 4);
    assert_eq!(read::<BanFor>("ban 1h up to 5h").0.repeated(40), lasts * 5);
}

#[test]
fn networks_lose_their_host_bits() {
    assert_eq!(read::<Network>("10.1.2.3/8").0.to_string(), "10.0.0.0/8");
    assert_eq!(read::<Network>("192.0.2.7").0.to_string(), "192.0.2.7/32");
    assert_eq!(read::<Network>("2001:db8::1/32").0.to_string(), "2001:db8::/32");
}

#[test]
fn hosts_are_lower_case_and_without_a_final_dot() {
    assert_eq!(read::<HostMatch>("Shop.Example.COM.").0, Some(HostPattern::Exact("shop.example.com".into())));
    assert_eq!(read::<HostMatch>("*.Example.com").0, Some(HostPattern::Wildcard("example.com".into())));
    assert_eq!(read::<HostMatch>("[2001:DB8::1]").0, Some(HostPattern::Exact("[2001:db8::1]".into())));
    assert_eq!(read::<HostMatch>("*").0, None);
}

#[test]
fn paths_are_exact_prefix_or_regex() {
    for (text, path) in [
        ("/", PathPattern::Exact("/".into())),
        ("/login/", PathPattern::Exact("/login/".into())),
        ("/**", PathPattern::Prefix(String::new())),
        ("/shop/**", PathPattern::Prefix("/shop".into())),
        ("/käse", PathPattern::Exact("/k%C3%A4se".into())),
        ("~ ^/item/[0-9]+$", PathPattern::Regex("^/item/[0-9]+$".into())),
    ] {
        assert_eq!(read::<PathMatch>(text).0, path, "{text}");
    }
}

#[test]
fn weights_are_shares_drain_or_off() {
    for (text, weight) in
        [("95", Weight::Share(95)), ("0", Weight::Drain), ("drain", Weight::Drain), ("off", Weight::Off)]
    {
        assert_eq!(read::<WeightOf>(text).0, weight, "{text}");
    }
}

#[test]
fn every_documented_example_is_read() {
    fn all<T: Literal>() {
        for example in T::EXAMPLES {
            read::<T>(example);
        }
    }
    use tidegate_model::literal as l;

    all::<Time>();
    all::<TimeOrZero>();
    all::<Rate>();
    all::<BanFor>();
    all::<FailureShare>();
    all::<Size>();
    all::<Sample>();
    all::<l::Percent<0, 100>>();
    all::<Bind>();
    all::<EndpointAddress>();
    all::<Network>();
    all::<HostMatch>();
    all::<PathMatch>();
    all::<l::RegexText>();
    all::<l::HeaderName>();
    all::<l::HeaderValue>();
    all::<l::ContentType>();
    all::<l::CookieName>();
    all::<l::Method>();
    all::<l::Host>();
    all::<l::RewritePath>();
    all::<l::ExpectStatus>();
    all::<l::FilePath>();
    all::<l::JsonPath>();
    all::<Origin>();
    all::<l::TokenKey>();
    all::<l::Name>();
    all::<l::Target>();
    all::<WeightOf>();
    all::<l::BalanceBy>();
    all::<l::AccessLogTo>();
    all::<l::RetryWhen>();
    all::<l::MethodClass>();
    all::<l::Protocol>();
    all::<l::VersionNumber>();
}

proptest! {
    #[test]
    fn a_duration_is_read_as_it_is_written(millis in 1u64..366 * 86_400_000) {
        let duration = Duration::from_millis(millis);

        prop_assert_eq!(read::<Time>(&write_duration(duration)).0, duration);
    }

    #[test]
    fn a_size_in_bytes_is_exact(bytes in 0u64..=1 << 40) {
        prop_assert_eq!(read::<Size>(&format!("{bytes}B")).0, bytes);
    }

    #[test]
    fn a_failure_rate_is_read_as_it_is_written(percent in 1u8..=100, of in 1u32..=FailureRate::MAX_OF) {
        prop_assert_eq!(read::<FailureShare>(&format!("{percent}% of {of}")).0, FailureRate { percent, of });
    }

    #[test]
    fn an_endpoint_is_written_as_it_is_read(ip in any::<std::net::IpAddr>(), port in 1u16..) {
        let text = std::net::SocketAddr::new(ip, port).to_string();

        prop_assert_eq!(read::<EndpointAddress>(&text).0.to_string(), text);
    }

    #[test]
    fn a_sample_is_exact_to_a_hundredth_of_a_percent(hundredths in 0u32..=50_000) {
        let text = format!("{}.{:02}%", hundredths / 100, hundredths % 100);

        prop_assert_eq!(read::<Sample>(&text).0, hundredths);
    }

    #[test]
    fn no_text_makes_a_literal_panic(text in any::<String>()) {
        let _ = Time::parse(&text);
        let _ = Rate::parse(&text);
        let _ = Size::parse(&text);
        let _ = Sample::parse(&text);
        let _ = Bind::parse(&text);
        let _ = EndpointAddress::parse(&text);
        let _ = HostMatch::parse(&text);
        let _ = PathMatch::parse(&text);
        let _ = Origin::parse(&text);
        let _ = tidegate_model::literal::JsonPath::parse(&text);
        let _ = tidegate_model::literal::TokenKey::parse(&text);
        let _ = tidegate_model::literal::Target::parse(&text);
        let _ = tidegate_model::literal::ExpectStatus::parse(&text);
    }
}
