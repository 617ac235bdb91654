use proptest::prelude::*;

use super::*;

const PREFACE_BYTES: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(vec![0xa5; length]);
    bytes
}

fn ping() -> Vec<u8> {
    frame(kind::PING, 0, 0, 8)
}

fn watch() -> FrameWatch {
    let mut watch = FrameWatch::new(&ListenerGuard::default());
    watch.inbound(PREFACE_BYTES, Timestamp::ZERO).unwrap();
    watch
}

fn at(seconds: f64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs_f64(seconds)
}

/// How many of these a client gets through at once, of 10,000.
fn passed(watch: &mut FrameWatch, bytes: impl Fn(u32) -> Vec<u8>, now: Timestamp) -> Result<usize, (usize, Abuse)> {
    for n in 0..10_000 {
        watch.inbound(&bytes(n), now).map_err(|abuse| (n as usize, abuse))?;
    }
    Ok(10_000)
}

#[test]
fn each_flood_is_noticed_at_its_own_bound() {
    let client = |n: u32| 2 * n + 1;
    type Frames<'a> = dyn Fn(u32) -> Vec<u8> + 'a;
    let floods: [(Abuse, usize, &Frames<'_>); 6] = [
        (Abuse::Pings, 100, &|_| ping()),
        (Abuse::Settings, 50, &|_| frame(kind::SETTINGS, 0, 0, 6)),
        (Abuse::EmptyData, 100, &|_| frame(kind::DATA, 0, 1, 0)),
        (Abuse::Priorities, 500, &|n| frame(2, 0, client(n), 5)),
        (Abuse::Priorities, 500, &|_| frame(0x42, 0, 0, 3)),
        (Abuse::WindowUpdates, 2_000, &|_| frame(kind::WINDOW_UPDATE, 0, 0, 4)),
    ];

    for (abuse, bound, bytes) in floods {
        assert_eq!(passed(&mut watch(), bytes, at(1.0)), Err((bound, abuse)));
    }
}

#[test]
fn rapid_reset_is_noticed_and_cancelling_now_and_then_is_not() {
    let request = |n: u32| frame(kind::HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, 20);
    let reset = |n: u32| frame(kind::RST_STREAM, 0, 2 * n + 1, 4);

    let rapid = passed(&mut watch(), |n| [request(n), reset(n)].concat(), at(1.0));
    let one_in_three =
        passed(&mut watch(), |n| if n % 3 == 0 { [request(n), reset(n)].concat() } else { request(n) }, at(1.0));
    let mut page = watch();
    let images = (0..150).try_for_each(|n| page.inbound(&request(n), at(1.0)));
    let cancelled = (0..150).try_for_each(|n| page.inbound(&reset(n), at(1.1)));

    assert!(matches!(rapid, Err((390..=410, Abuse::Resets))), "{rapid:?}");
    assert_eq!(one_in_three, Ok(10_000));
    assert_eq!((images, cancelled), (Ok(()), Ok(())));
}

#[test]
fn a_server_that_is_made_to_reset_notices() {
    let mut watch = watch();
    let mut outcome = Ok(());

    for n in 0..10_000 {
        watch.inbound(&frame(kind::HEADERS, END_HEADERS, 2 * n + 1, 20), at(1.0)).unwrap();
        outcome = watch.outbound(&frame(kind::RST_STREAM, 0, 2 * n + 1, 4), at(1.0));
        if outcome.is_err() {
            assert!((390..=410).contains(&n), "{n}");
            break;
        }
    }

    assert_eq!(outcome, Err(Abuse::MadeResets));
}

#[test]
fn answers_earn_pings_and_window_updates() {
    let mut watch = watch();
    let answer = frame(kind::DATA, 0, 1, 16_384);

    for n in 0..100_000 {
        watch.outbound(&answer, at(1.0)).unwrap();
        let updates = [ping(), frame(kind::WINDOW_UPDATE, 0, 0, 4), frame(kind::WINDOW_UPDATE, 0, 1, 4)].concat();
        assert_eq!(watch.inbound(&updates, at(1.0)), Ok(()), "{n}");
    }
}

#[test]
fn buckets_drain_with_time() {
    let mut watch = watch();

    for second in 0..600 {
        for _ in 0..9 {
            assert_eq!(watch.inbound(&ping(), at(f64::from(second))), Ok(()), "in second {second}");
        }
    }
}

#[test]
fn a_header_block_of_endless_continuations_is_noticed() {
    let mut watch = watch();
    watch.inbound(&frame(kind::HEADERS, 0, 1, 10), at(1.0)).unwrap();

    let flood = passed(&mut watch, |_| frame(kind::CONTINUATION, 0, 1, 1), at(1.0));

    assert_eq!(flood, Err((CONTINUATIONS, Abuse::Continuations)));
}

#[test]
fn what_has_begun_and_not_ended_is_remembered_from_its_beginning() {
    let mut watch = watch();
    let headers = frame(kind::HEADERS, 0, 1, 10);

    assert_eq!(watch.unfinished(), None);
    watch.inbound(&headers[..4], at(1.0)).unwrap();
    watch.inbound(&headers[4..], at(2.0)).unwrap();
    watch.inbound(&frame(kind::CONTINUATION, 0, 1, 1), at(3.0)).unwrap();
    let in_block = watch.unfinished();
    watch.inbound(&frame(kind::CONTINUATION, END_HEADERS, 1, 1), at(4.0)).unwrap();
    let ended = watch.unfinished();
    watch.inbound(&frame(kind::DATA, 0, 1, 100)[..50], at(5.0)).unwrap();
    let in_body = watch.unfinished();

    assert_eq!((in_block, ended, in_body), (Some(at(1.0)), None, None));
    assert_eq!(watch.data(), 41);
}

#[test]
fn goaway_is_only_said_between_two_frames_and_names_the_last_stream() {
    let mut watch = watch();
    watch.inbound(&frame(kind::HEADERS, END_HEADERS, 7, 10), at(1.0)).unwrap();
    let answer = frame(kind::DATA, 0, 7, 10);

    let between = watch.goaway();
    watch.outbound(&answer[..12], at(1.0)).unwrap();
    let within = watch.goaway();
    watch.outbound(&answer[12..], at(1.0)).unwrap();

    assert_eq!(between.as_ref().map(|g| &g[..]), Some(&b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x07\0\0\0\x0b"[..]));
    assert_eq!(within, None);
    assert_eq!(watch.goaway(), between);
}

proptest! {
    #[test]
    fn how_frames_are_cut_into_reads_makes_no_difference(
        frames in prop::collection::vec((0_u8..12, any::<u8>(), 0_u32..9, 0_usize..40), 1..400),
        cut in 1_usize..50,
    ) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, length)| frame(*kind, *flags, *stream, *length)).collect();
        let (mut whole, mut pieces) = (watch(), watch());

        let at_once = whole.inbound(&bytes, at(1.0));
        let cut_up = bytes.chunks(cut).try_for_each(|piece| pieces.inbound(piece, at(1.0)));

        prop_assert_eq!(at_once, cut_up);
        prop_assert_eq!(whole.data(), pieces.data());
        if at_once.is_ok() {
            prop_assert_eq!(whole.unfinished(), pieces.unfinished());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let mut watch = FrameWatch::new(&ListenerGuard::default());

        let _ = watch.inbound(&bytes, at(1.0));
        let _ = watch.outbound(&bytes, at(1.0));
    }
}
