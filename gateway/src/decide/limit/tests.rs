use std::time::Duration;

use proptest::prelude::*;

use super::*;
use tidegate_model::desired::Ban;

const MILLI: u64 = 1_000_000;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(1_000 * MILLI + millis * MILLI)
}

fn ban(seconds: u64, after: u32, window_millis: u64) -> Ban {
    let lasts = Duration::from_secs(seconds);
    Ban { lasts, after, window: Duration::from_millis(window_millis), up_to: lasts }
}

fn state(interval: Duration, burst: u32, ban: Option<Ban>, max_keys: usize) -> LimitState {
    let limit = Limit {
        name: "per_ip".into(),
        keys: vec![Key::Path],
        interval,
        burst,
        window: Duration::from_secs(1),
        per_window: 50,
        over: 429,
        challenge: false,
        ban,
        shared: false,
    };
    LimitState::new(&limit, max_keys)
}

fn passes(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Taken { .. })
}

#[test]
fn a_full_bucket_gives_its_burst_then_one_token_each_interval() {
    let limit = state(Duration::from_millis(20), 3, None, 100);
    let id = BucketId(7);

    let burst: Vec<_> = (0..4).map(|_| limit.try_take(id, at(0))).collect();
    let early = limit.try_take(id, at(19));
    let later = limit.try_take(id, at(20));

    assert_eq!(burst[0], Outcome::Taken { remaining: 2, reset: 20 * MILLI });
    assert_eq!(burst[2], Outcome::Taken { remaining: 0, reset: 60 * MILLI });
    assert_eq!(burst[3], Outcome::Refused { retry_after: 20 * MILLI });
    assert_eq!(early, Outcome::Refused { retry_after: MILLI });
    assert_eq!(later, Outcome::Taken { remaining: 0, reset: 60 * MILLI });
}

#[test]
fn peeking_takes_nothing_and_counts_nothing() {
    let ban = ban(60, 1, 1_000);
    let limit = state(Duration::from_secs(1), 1, Some(ban), 100);
    let id = BucketId(7);

    assert!(passes(limit.peek(id, at(0))) && passes(limit.peek(id, at(0))));
    assert!(passes(limit.try_take(id, at(0))));
    assert!(matches!(limit.peek(id, at(0)), Outcome::Refused { .. }));
    assert!(matches!(limit.peek(id, at(0)), Outcome::Refused { .. }));
}

#[test]
fn a_key_is_banned_by_its_nth_refusal_within_the_window_and_free_again_afterwards() {
    let ban = ban(60, 3, 500);
    let limit = state(Duration::from_secs(1), 1, Some(ban), 100);
    let id = BucketId(7);
    limit.try_take(id, at(0));

    let slow: Vec<_> = [100, 400, 700].map(|ms| limit.try_take(id, at(ms))).to_vec();
    let third = [800, 900].map(|ms| limit.try_take(id, at(ms)))[1];
    let during = limit.try_take(id, at(60_000));
    let after = limit.try_take(id, at(61_000));

    assert!(slow.iter().all(|o| matches!(o, Outcome::Refused { .. })), "{slow:?}: the window had passed");
    assert!(matches!(third, Outcome::Banned { .. }), "{third:?}");
    assert!(matches!(during, Outcome::Banned { .. }), "a ban doesn't end early");
    assert!(passes(after));
}

#[test]
fn a_ban_within_a_bucket_doubles_up_to_its_cap_and_is_forgotten_after_good_behaviour() {
    let grows = Ban { up_to: Duration::from_secs(200), ..ban(60, 1, 1_000) };
    let limit = state(Duration::from_secs(3_600), 1, Some(grows), 100);
    let lasts = |seconds: u64| match limit.try_take(BucketId(7), at(seconds * 1_000)) {
        Outcome::Banned { until } => until.since(at(seconds * 1_000)).as_secs(),
        other => panic!("{other:?}"),
    };
    limit.try_take(BucketId(7), at(0));

    assert_eq!([lasts(1), lasts(62), lasts(183), lasts(384)], [60, 120, 200, 200]);
    assert_eq!(lasts(384 + 200 + 201), 60);
}

#[test]
fn a_limit_by_address_asks_for_a_ban_instead_of_keeping_one() {
    let mut limit = state(Duration::from_secs(1), 1, Some(ban(60, 2, 1_000)), 100);
    limit.by_source = true;
    limit.try_take(BucketId(7), at(0));

    let refused = [0, 1, 2].map(|ms| limit.try_take(BucketId(7), at(ms)));

    assert!(matches!(refused[0], Outcome::Refused { .. }));
    assert!(matches!(refused[1], Outcome::Punished { .. }));
    assert!(matches!(refused[2], Outcome::Refused { .. }), "the count begins again");
    assert!(passes(limit.try_take(BucketId(7), at(1_000))), "nothing but the table keeps it out");
}

#[test]
fn other_keys_are_not_touched_by_a_ban() {
    let ban = ban(60, 1, 1_000);
    let limit = state(Duration::from_secs(1), 1, Some(ban), 100);
    limit.try_take(BucketId(1), at(0));
    limit.try_take(BucketId(1), at(0));

    assert!(!passes(limit.try_take(BucketId(1), at(1_000))));
    assert!(passes(limit.try_take(BucketId(2), at(0))));
}

#[test]
fn threads_together_get_exactly_the_burst() {
    let limit = state(Duration::from_secs(3_600), 100, None, 100);

    let passed: usize = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..100).filter(|_| passes(limit.try_take(BucketId(7), at(0)))).count()))
            .collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).sum()
    });

    assert_eq!(passed, 100);
}

#[test]
fn memory_is_bounded_and_the_fullest_buckets_are_forgotten_first() {
    let limit = state(Duration::from_secs(1), 10, None, 100);
    let heavy = BucketId(1 << 40);
    for _ in 0..10 {
        limit.try_take(heavy, at(0));
    }

    // One token each, so each is full again long before it.
    for id in 0..10_000 {
        limit.try_take(BucketId(id), at(1));
    }

    assert!(limit.remembered() <= 100, "{}", limit.remembered());
    assert!(!passes(limit.peek(heavy, at(1))), "the empty bucket was remembered");
}

#[test]
fn buckets_that_are_full_again_make_room_without_forgetting_the_others() {
    let limit = state(Duration::from_millis(10), 1, None, 100);
    for id in 0..99 {
        limit.try_take(BucketId(id), at(0));
    }
    limit.try_take(BucketId(99), at(15));

    limit.try_take(BucketId(100), at(15));

    assert_eq!(limit.remembered(), 2);
}

/// What a million keys cost: each shard's map holds at most 2^15 places of 24 bytes and one control byte.
#[test]
fn a_million_keys_fit_into_64_mib() {
    let shards = shards_for(1_000_000);
    let per_shard = (1_000_000 / shards * 8).div_ceil(7).next_power_of_two();
    let bytes = shards * per_shard * (size_of::<(BucketId, Bucket)>() + 1);

    assert!(bytes <= 64 << 20, "{bytes}");
}

#[test]
fn values_of_several_keys_do_not_run_into_each_other() {
    use http::{HeaderMap, HeaderValue, Method};
    let key = |name: &str| Key::Header(name.into());
    let limit = Limit { keys: vec![key("a"), key("b")], ..state(Duration::from_secs(1), 1, None, 1).limit };
    let state = LimitState::new(&limit, 100);
    let bucket = |a: &'static str, b: &'static str| {
        let headers: HeaderMap = [("a", a), ("b", b)]
            .map(|(k, v)| (http::HeaderName::from_static(k), HeaderValue::from_static(v)))
            .into_iter()
            .collect();
        let head = Head {
            method: &Method::GET,
            host: "",
            path: "/",
            query: None,
            headers: &headers,
            content_length: None,
            dyed: None,
        };
        state.bucket(&head, Network::of([127, 0, 0, 1].into(), 64))
    };

    assert_ne!(bucket("xy", "z"), bucket("x", "yz"));
    assert_ne!(bucket("x", ""), bucket("", "x"));
    assert_eq!(bucket("x", "y"), bucket("x", "y"));
}

/// `level` of a plain bucket after a token more, for the properties below.
fn plain(level: u64, now: u64, interval: u64) -> u64 {
    level.max(now) + interval
}

#[test]
fn a_light_key_among_a_million_others_is_not_refused() {
    let limit = state(Duration::from_secs(1), 20, None, 1_000);
    let light = BucketId(u64::MAX / 3);

    let mut passed = 0;
    for n in 0..1_000_000_u64 {
        // A million within ten seconds; the hash that tells keys apart spreads them evenly, and so does this.
        let id = BucketId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.rotate_left(32));
        limit.try_take(id, at(n / 100));
        if n % 200_000 == 0 {
            passed += usize::from(passes(limit.try_take(light, at(n / 100))));
        }
    }

    assert_eq!(passed, 5);
    assert!(limit.remembered() <= 1_000);
}

#[test]
fn a_heavy_key_whose_bucket_was_forgotten_gets_half_a_burst_at_most() {
    let limit = state(Duration::from_secs(3_600), 100, None, 64);
    let heavy = BucketId(7);
    while passes(limit.try_take(heavy, at(0))) {}

    limit.shards.iter().for_each(|shard| shard.lock().unwrap().clear());
    let more = (0..200).filter(|_| passes(limit.try_take(heavy, at(0)))).count();

    assert_eq!(more, 50);
}

#[test]
fn a_banned_key_does_not_come_in_through_the_sketch() {
    let limit = state(Duration::from_millis(10), 4, Some(ban(60, 1, 1_000)), 100);
    let id = BucketId(7);
    for _ in 0..5 {
        limit.try_take(id, at(0));
    }

    assert!(matches!(limit.try_take(id, at(30_000)), Outcome::Banned { .. }));
    assert!(passes(limit.try_take(id, at(60_001))));
}

#[test]
fn threads_that_share_cells_never_get_more_than_each_keys_burst() {
    let mut limit = state(Duration::from_secs(3_600), 64, None, 100);
    limit.sketch = Sketch::with_rows_of(2, limit.interval, 64);
    let limit = &limit;

    let passed: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut passed = vec![0; 3];
                    for turn in 0..600 {
                        passed[turn % 3] += usize::from(passes(limit.try_take(BucketId(turn as u64 % 3), at(0))));
                    }
                    passed
                })
            })
            .collect();
        takers.into_iter().map(|taker| taker.join().unwrap()).collect()
    });

    for key in 0..3 {
        let all: usize = passed.iter().map(|passed| passed[key]).sum();
        assert!((32..=64).contains(&all), "key {key} passed {all} times");
    }
}

proptest! {
    /// Few cells and many keys, so that everybody collides with everybody.
    #[test]
    fn keys_that_share_cells_keep_their_own_bound_and_at_least_half_of_their_burst(
        steps in prop::collection::vec((0u64..30, 0u64..6), 1..400), burst in 1u32..20, interval in 1u64..50,
    ) {
        let mut limit = state(Duration::from_millis(interval), burst, None, 100);
        limit.sketch = Sketch::with_rows_of(2, limit.interval, burst);
        let (interval, depth) = (limit.interval, limit.depth);
        let half = depth - u64::from(burst / 2) * interval;
        let mut own = [0_u64; 6];
        let mut now = 0;
        for (step, key) in steps {
            now += step;
            let moment = at(now).as_nanos();
            // A hash with bits for every row.
            let id = BucketId(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let next = plain(own[key as usize], moment, interval);
            if passes(limit.try_take(id, at(now))) {
                own[key as usize] = next;
                prop_assert!(next - moment <= depth, "more than a plain bucket would give");
            } else {
                prop_assert!(next - moment > half, "refused for what others did");
            }
        }
    }

    #[test]
    fn no_window_passes_more_than_burst_and_its_rate(
        steps in prop::collection::vec(0u64..60, 1..300), burst in 1u32..20, interval in 1u64..50,
    ) {
        let limit = state(Duration::from_millis(interval), burst, None, 100);
        let mut now = 0;
        let mut passed = Vec::new();
        let mut refused_wrongly = None;
        for step in steps {
            now += step;
            let outcome = limit.try_take(BucketId(7), at(now));
            if passes(outcome) {
                passed.push(now);
            } else if let Outcome::Refused { retry_after } = outcome {
                // Sooner than it says there is none, and then there is one.
                let then = Timestamp::from_nanos(at(now).as_nanos() + retry_after);
                if !passes(limit.peek(BucketId(7), then)) || passes(limit.peek(BucketId(7), Timestamp::from_nanos(then.as_nanos() - 1))) {
                    refused_wrongly = Some(now);
                }
            }
        }

        prop_assert_eq!(refused_wrongly, None);
        for (i, first) in passed.iter().enumerate() {
            for (j, last) in passed.iter().enumerate().skip(i) {
                let allowed = u64::from(burst) + (last - first) / interval;
                prop_assert!((j - i + 1) as u64 <= allowed, "{} passed from {first} to {last}", j - i + 1);
            }
        }
    }
}

#[test]
fn what_other_gateways_gave_out_is_missing_here() {
    let mut limit = state(Duration::from_secs(1), 10, None, 100);
    limit.shared = Some(Shared::new("api", 10, &mut rand::rng()));
    let id = BucketId(7);
    assert!((0..3).all(|_| passes(limit.try_take(id, at(0)))));
    let told = limit.shared().unwrap().take_all();

    // They gave out five, and one more was taken here since.
    limit.try_take(id, at(0));
    limit.learn(7, 8_000 * MILLI, at(0));

    assert_eq!(told, [(7, 3)]);
    assert_eq!(limit.try_take(id, at(0)), Outcome::Taken { remaining: 0, reset: 10_000 * MILLI });
    assert!(!passes(limit.try_take(id, at(0))));
    assert!(passes(limit.try_take(id, at(1_000))));
}
