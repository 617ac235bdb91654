use proptest::prelude::*;

use super::*;

/// A ClientHello message with these suites and extensions, GREASE in front of each list.
fn hello(legacy: u16, suites: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let list = |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|value| value.to_be_bytes()).collect() };
    let mut body = legacy.to_be_bytes().to_vec();
    body.extend([7; 32]);
    body.extend([2, 9, 9]);
    body.extend(((suites.len() + 1) as u16 * 2).to_be_bytes());
    body.extend(list(&[0x3a3a]));
    body.extend(list(suites));
    body.extend([1, 0]);
    let mut all = vec![0xaa, 0xaa, 0, 1, 0];
    for (kind, content) in extensions {
        all.extend(kind.to_be_bytes());
        all.extend((content.len() as u16).to_be_bytes());
        all.extend(content);
    }
    body.extend((all.len() as u16).to_be_bytes());
    body.extend(all);
    let mut message = vec![1];
    message.extend(&(body.len() as u32).to_be_bytes()[1..]);
    message.extend(body);
    message
}

/// `message` in records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for fragment in message.chunks(size) {
        out.extend([22, 3, 1]);
        out.extend((fragment.len() as u16).to_be_bytes());
        out.extend(fragment);
    }
    out
}

fn protocols(names: &[&[u8]]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = names.iter().flat_map(|name| [&[name.len() as u8], *name].concat()).collect();
    (16, [&(list.len() as u16).to_be_bytes()[..], &list].concat())
}

fn versions(numbers: &[u16]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    (43, [&[list.len() as u8][..], &list].concat())
}

fn signatures(numbers: &[u16]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    (13, [&(list.len() as u16).to_be_bytes()[..], &list].concat())
}

/// The example of the specification: what Chrome sent when it was written.
fn example() -> Vec<u8> {
    let suites = [
        0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f,
        0x0035,
    ];
    let plain = |kind: u16| (kind, Vec::new());
    let extensions = [
        plain(0x001b),
        plain(0x0000),
        plain(0x0033),
        protocols(&[b"h2", b"http/1.1"]),
        plain(0x4469),
        plain(0x0017),
        plain(0x002d),
        signatures(&[0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601]),
        plain(0x0005),
        plain(0x0023),
        plain(0x0012),
        versions(&[0x1a1a, 0x0304, 0x0303]),
        plain(0xff01),
        plain(0x000b),
        plain(0x000a),
        plain(0x0015),
    ];
    hello(0x0303, &suites, &extensions)
}

fn of(message: &[u8]) -> String {
    Ja4::of(&records(message, 16_384)).unwrap().as_str().to_owned()
}

#[test]
fn the_specifications_example_has_the_specifications_fingerprint() {
    assert_eq!(of(&example()), "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

#[test]
fn the_hashes_are_those_of_the_specification_with_and_without_signatures() {
    let sorted = [
        0x0005, 0x000a, 0x000b, 0x000d, 0x0012, 0x0015, 0x0017, 0x001b, 0x0023, 0x002b, 0x002d, 0x0033, 0x4469, 0xff01,
    ];
    let (mut without, mut nothing) = ([0; 12], [0; 12]);

    hash(&mut without, &sorted, &[]);
    hash(&mut nothing, &[], &[0x0403]);

    assert_eq!((&without, &nothing), (b"6d807ffa2a79", b"000000000000"));
}

#[test]
fn the_protocols_ends_are_taken_as_the_specification_says() {
    for (protocol, expected) in [
        (&b"h2"[..], "h2"),
        (b"http/1.1", "h1"),
        (b"x", "xx"),
        (b"", "00"),
        (b"\xab", "ab"),
        (b"\xab\xcd", "ad"),
        (b"\x30\xab", "3b"),
        (b"\x30\x31\xab\xcd", "3d"),
        (b"\x30\xab\xcd\x31", "01"),
    ] {
        assert_eq!(&ends(protocol), expected.as_bytes(), "{protocol:?}");
    }
}

#[test]
fn an_old_client_without_extensions_has_a_fingerprint_too() {
    let mut body = vec![3, 1];
    body.extend([7; 32]);
    body.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    let message = [&[1, 0, 0, body.len() as u8][..], &body].concat();

    // printf 002f,0035 | sha256sum
    assert_eq!(of(&message), "t10i020000_f54dd463d39b_000000000000");
}

#[test]
fn more_than_99_suites_are_told_as_99() {
    let suites: Vec<u16> = (0..150).collect();

    assert!(of(&hello(0x0303, &suites, &[])).starts_with("t12i990000_"));
}

#[test]
fn what_is_no_client_hello_has_no_fingerprint() {
    let whole = records(&example(), 16_384);

    for length in 0..whole.len() {
        assert_eq!(Ja4::of(&whole[..length]), None, "{length}");
    }
    assert_eq!(Ja4::of(b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"), None);
    assert_eq!(Ja4::of(b"\x17\x03\x01\x00\x04\x01\x00\x00\x00"), None);
}

proptest! {
    #[test]
    fn how_it_is_cut_into_records_makes_no_difference(size in 1_usize..400) {
        let cut = Ja4::of(&records(&example(), size)).unwrap();

        prop_assert_eq!(cut.as_str(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn nothing_makes_it_panic(mut bytes: Vec<u8>, at in 0_usize..400, to: u8, noise: bool) {
        if !noise {
            bytes = records(&example(), 100);
            let at = at % bytes.len();
            bytes[at] = to;
        }

        if let Some(fingerprint) = Ja4::of(&bytes) {
            prop_assert_eq!(fingerprint.as_str().len(), Ja4::LENGTH);
        }
    }
}
