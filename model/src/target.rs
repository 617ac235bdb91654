//! A request's target in its normal form: what is matched, limited, rewritten, copied and forwarded.
//!
//! A path has many spellings, and an endpoint may take several of them for one (`/a/../b`, `/%62`, `//b`).
//! Rules about `/b` would be reached past by the others. So each target is brought to one form (RFC 3986 §6.2.2)
//! before anything is decided, and the endpoint gets that same form. What has no honest meaning is refused.
//!
//! Always: `%41` becomes `A` where that character needs no escape, hexadecimal digits become capitals, and refused are
//! an illegal byte, a broken escape, `%00`, an overlong UTF-8 sequence, and a way above the root.
//! As [`Paths`] says: dot segments, slashes in a row, escaped slashes. The query is only checked for illegal bytes.
//!
//! # Invariants
//!
//! - The normal form of a normal form is itself.
//! - It begins with `/` (or is `*`). Unless dot segments are kept it holds none, not even for an endpoint that unescapes
//!   slashes or cuts `;parameters` off first.
//! - A target that is normal already is lent, not copied.
//!
//! # Not here
//!
//! Absolute targets: the door rewrites them first. Names are compared byte by byte: letter case stays.

use std::borrow::Cow;

use crate::desired::{DotSegments, EscapedSlashes, Paths, Slashes};

/// Why a target has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadTarget {
    /// It doesn't begin with `/`.
    Form,
    /// It holds a byte that must be escaped, a `#` or a backslash.
    Byte,
    /// A `%` isn't followed by two hexadecimal digits.
    Escape,
    /// It holds `%00`: the end of the text to some, a character to others.
    Nul,
    /// It holds an overlong UTF-8 sequence: `%c0%af` is a slash to a careless decoder.
    Overlong,
    /// It holds a dot segment where those are refused, or one in disguise (`..;x`, `..%2f`).
    DotSegment,
    /// Its dot segments lead above the root.
    AboveRoot,
    /// It holds `%2F` or `%5C` where those are refused.
    EscapedSlash,
}

impl BadTarget {
    /// One sentence for whoever reads the refusal, without its full stop.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Form => "the path does not begin with /",
            Self::Byte => "the path or query holds a character that must be escaped",
            Self::Escape => "a % in the path is not followed by two hexadecimal digits",
            Self::Nul => "the path holds %00",
            Self::Overlong => "the path holds an overlong UTF-8 sequence",
            Self::DotSegment => "the path holds a dot segment that is not allowed here",
            Self::AboveRoot => "the path leads above the root",
            Self::EscapedSlash => "the path holds an escaped slash",
        }
    }
}

/// Tells whether `byte` may stand in a path. Those that RFC 3986 forbids and clients send all the same
/// (`"[]^{|}`) may.
pub const fn is_path_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'#' | b'<' | b'>' | b'?' | b'\\' | b'`')
}

/// Tells whether `byte` may stand in a query. Browsers send backslashes and backquotes there as they are.
pub const fn is_query_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e) && !matches!(byte, b'#' | b'<' | b'>')
}

/// The normal form of `target`: a path, and perhaps a `?` and a query; or `*`.
///
/// # Errors
///
/// Why it has none.
pub fn normalise<'a>(target: &'a str, rules: &Paths) -> Result<Cow<'a, str>, BadTarget> {
    let bytes = target.as_bytes();
    if bytes.first() != Some(&b'/') {
        return if target == "*" { Ok(Cow::Borrowed(target)) } else { Err(BadTarget::Form) };
    }
    let mut segment = 1; // Where the current segment begins: everything before it is normal.
    let mut at = 1;
    loop {
        at += bytes[at..].iter().take_while(|byte| KIND[usize::from(**byte)] == PLAIN).count();
        match bytes.get(at) {
            None | Some(b'?') => break,
            Some(b'%') => return rewrite(target, segment, rules),
            Some(b'/') if at == segment => return rewrite(target, segment, rules),
            Some(b'/') => segment = at + 1,
            Some(b'.') if at == segment && !begins_a_name(&bytes[at + 1..]) => return rewrite(target, segment, rules),
            Some(b'.') => {}
            Some(_) => return Err(BadTarget::Byte),
        }
        at += 1;
    }
    check_query(&bytes[at..])?;
    Ok(Cow::Borrowed(target))
}

/// Whether a dot before this begins a name, such as `.well-known`, and no dot segment of any kind.
fn begins_a_name(rest: &[u8]) -> bool {
    rest.first().is_some_and(|byte| KIND[usize::from(*byte)] == PLAIN && *byte != b';')
}

/// What a byte of a path is: one that stays and means nothing, one to look at, or one that may not be there.
const KIND: [u8; 256] = {
    let mut kinds = [ILLEGAL; 256];
    let mut byte = 0;
    while byte < 256 {
        if matches!(byte as u8, b'/' | b'.' | b'%' | b'?') {
            kinds[byte] = SPECIAL;
        } else if is_path_byte(byte as u8) {
            kinds[byte] = PLAIN;
        }
        byte += 1;
    }
    kinds
};
const PLAIN: u8 = 0;
const SPECIAL: u8 = 1;
const ILLEGAL: u8 = 2;

fn check_query(query: &[u8]) -> Result<(), BadTarget> {
    if query.iter().all(|byte| is_query_byte(*byte)) { Ok(()) } else { Err(BadTarget::Byte) }
}

/// The normal form, where everything before `from`, the beginning of a segment, is normal.
fn rewrite<'a>(target: &'a str, from: usize, rules: &Paths) -> Result<Cow<'a, str>, BadTarget> {
    let end = target.find('?').unwrap_or(target.len());
    let (path, query) = target.as_bytes().split_at(end);
    check_query(query)?;
    let mut out = Vec::with_capacity(target.len());
    out.extend_from_slice(&path[..from]);
    let mut rest = Some(&path[from..]);
    while let Some(bytes) = rest {
        let start = out.len();
        let segment;
        (segment, rest) = unescape(bytes, &mut out, rules)?;
        match Dots::of(&out[start..], segment) {
            Dots::None if start == out.len() && rest.is_some() && rules.slashes == Slashes::Merge => continue,
            Dots::None => {}
            _ if rules.dot_segments == DotSegments::Keep => {}
            Dots::Hidden => return Err(BadTarget::DotSegment),
            _ if rules.dot_segments == DotSegments::Refuse => return Err(BadTarget::DotSegment),
            Dots::Here => {
                out.truncate(start);
                continue;
            }
            Dots::Up => {
                out.truncate(start);
                out.pop(); // The slash in front: "/a/" becomes "/a", and then "/".
                let parent = out.iter().rposition(|byte| *byte == b'/').ok_or(BadTarget::AboveRoot)?;
                out.truncate(parent + 1);
                continue;
            }
        }
        if rest.is_some() {
            out.push(b'/');
        }
    }
    out.extend_from_slice(query);
    if out == target.as_bytes() {
        return Ok(Cow::Borrowed(target));
    }
    Ok(Cow::Owned(String::from_utf8(out).expect("invariant: only ASCII was accepted")))
}

/// What stands in a segment besides plain characters.
#[derive(Clone, Copy, Default)]
struct Segment {
    /// `%2F` or `%5C`, or a semicolon, escaped or not: what may cut a segment in two for somebody else.
    cuts: bool,
}

/// Moves one segment to `out`, its escapes in normal form. Returns what follows its slash, if there is one.
fn unescape<'b>(bytes: &'b [u8], out: &mut Vec<u8>, rules: &Paths) -> Result<(Segment, Option<&'b [u8]>), BadTarget> {
    let mut segment = Segment::default();
    let mut before = None; // The octet of the escape that ends right here.
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            if byte == b'/' {
                return Ok((segment, Some(&bytes[at + 1..])));
            }
            if !is_path_byte(byte) {
                return Err(BadTarget::Byte);
            }
            segment.cuts |= byte == b';';
            out.push(byte);
            (at, before) = (at + 1, None);
            continue;
        }
        let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return Err(BadTarget::Escape) };
        let octet = (high * 16 + low) as u8;
        at += 3;
        match octet {
            0 => return Err(BadTarget::Nul),
            b'/' | b'\\' => match rules.escaped_slashes {
                EscapedSlashes::Refuse => return Err(BadTarget::EscapedSlash),
                EscapedSlashes::Decode => return Ok((segment, Some(&bytes[at..]))),
                EscapedSlashes::Keep => segment.cuts = true,
            },
            b';' => segment.cuts = true,
            _ if before.is_some_and(|first| is_overlong(first, octet)) => return Err(BadTarget::Overlong),
            _ => {}
        }
        // RFC 3986 §2.3: these mean the same with and without their escape.
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            out.push(octet);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]);
        }
        before = Some(octet);
    }
    Ok((segment, None))
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Tells whether two octets begin a UTF-8 sequence longer than its character needs (RFC 3629 §3), the forms of
/// five and six octets included.
const fn is_overlong(first: u8, second: u8) -> bool {
    matches!(
        (first, second),
        (0xc0 | 0xc1, 0x80..=0xbf)
            | (0xe0, 0x80..=0x9f)
            | (0xf0, 0x80..=0x8f)
            | (0xf8, 0x80..=0x87)
            | (0xfc, 0x80..=0x83)
    )
}

/// What a segment says about the way.
enum Dots {
    /// Nothing.
    None,
    /// `.`
    Here,
    /// `..`
    Up,
    /// It would be a dot segment to somebody who unescapes slashes, or cuts off what follows a semicolon.
    Hidden,
}

impl Dots {
    fn of(bytes: &[u8], segment: Segment) -> Self {
        match bytes {
            b"." => Self::Here,
            b".." => Self::Up,
            _ if segment.cuts && hides_dots(bytes) => Self::Hidden,
            _ => Self::None,
        }
    }
}

fn hides_dots(mut bytes: &[u8]) -> bool {
    let is_slash = |escape: &[u8]| matches!(escape, b"%2F" | b"%5C");
    loop {
        let end = bytes.windows(3).position(is_slash);
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        let name = piece.split(|byte| *byte == b';').next().unwrap_or(piece);
        let name = name.windows(3).position(|escape| escape == b"%3B").map_or(name, |semicolon| &name[..semicolon]);
        if matches!(name, b"." | b"..") {
            return true;
        }
        match end {
            Some(end) => bytes = &bytes[end + 3..],
            None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: Paths =
        Paths { dot_segments: DotSegments::Resolve, slashes: Slashes::Merge, escaped_slashes: EscapedSlashes::Keep };
    const KEEP: Paths =
        Paths { dot_segments: DotSegments::Keep, slashes: Slashes::Keep, escaped_slashes: EscapedSlashes::Keep };

    fn normal(target: &str, rules: &Paths) -> Result<String, BadTarget> {
        normalise(target, rules).map(Cow::into_owned)
    }

    #[test]
    fn every_spelling_of_a_path_has_one_normal_form() {
        for (target, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/a/b?c", "/a/b?c"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("//a///b//", "/a/b/"),
            ("/a//../b", "/b"),
            ("/%61%2D%5f%7E", "/a-_~"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/caf%e9", "/caf%E9"),
            ("/a%2fb%5cc", "/a%2Fb%5Cc"),
            ("/a%252e%252e%252fb", "/a%252e%252e%252fb"),
            ("/a;x=1/b;y", "/a;x=1/b;y"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a?/../b//%2e%zz\\`", "/a?/../b//%2e%zz\\`"),
            ("/a/..?/../", "/?/../"),
            ("/%20%3f%23%0d%0a", "/%20%3F%23%0D%0A"),
        ] {
            assert_eq!(normal(target, &DEFAULT).as_deref(), Ok(expected), "{target}");
        }
    }

    #[test]
    fn what_has_no_honest_meaning_is_refused() {
        use BadTarget as B;
        for (target, why) in [
            ("", B::Form),
            ("a", B::Form),
            ("?a", B::Form),
            ("**", B::Form),
            ("http://h/a", B::Form),
            ("/a#b", B::Byte),
            ("/a?b#c", B::Byte),
            ("/a\\b", B::Byte),
            ("/a b", B::Byte),
            ("/é", B::Byte),
            ("/%61\\", B::Byte),
            ("/a?b c", B::Byte),
            ("/%", B::Escape),
            ("/%2", B::Escape),
            ("/%zz", B::Escape),
            ("/%u002e", B::Escape),
            ("/a%00b", B::Nul),
            ("/%c0%ae%c0%ae/", B::Overlong),
            ("/..%c0%af", B::Overlong),
            ("/%e0%80%af", B::Overlong),
            ("/%f0%80%80%af", B::Overlong),
            ("/%fc%80%80%80%80%af", B::Overlong),
            ("/..", B::AboveRoot),
            ("/a/../../b", B::AboveRoot),
            ("/%2e%2e/b", B::AboveRoot),
            ("/a/..;/b", B::DotSegment),
            ("/a/..;x=1/b", B::DotSegment),
            ("/a/..%3b/b", B::DotSegment),
            ("/a/.;/b", B::DotSegment),
            ("/a/..%2fb", B::DotSegment),
            ("/a/%2e%2e%5cb", B::DotSegment),
            ("/a%2f..%2fb", B::DotSegment),
            ("/a%2f..;/b", B::DotSegment),
        ] {
            assert_eq!(normal(target, &DEFAULT), Err(why), "{target}");
        }
    }

    #[test]
    fn each_rule_can_be_chosen() {
        let refuse = Paths { dot_segments: DotSegments::Refuse, escaped_slashes: EscapedSlashes::Refuse, ..DEFAULT };
        let decode = Paths { escaped_slashes: EscapedSlashes::Decode, ..DEFAULT };
        let slashes = Paths { slashes: Slashes::Keep, ..DEFAULT };

        assert_eq!(normal("/a/./b", &refuse), Err(BadTarget::DotSegment));
        assert_eq!(normal("/a%2Fb", &refuse), Err(BadTarget::EscapedSlash));
        assert_eq!(normal("/a%5cb", &refuse), Err(BadTarget::EscapedSlash));
        assert_eq!(normal("/a/b%2f..%5cc", &decode).as_deref(), Ok("/a/c"));
        assert_eq!(normal("/a%2f%2Fb", &decode).as_deref(), Ok("/a/b"));
        assert_eq!(normal("/a//../b", &slashes).as_deref(), Ok("/a/b"));
        assert_eq!(normal("//a//", &slashes).as_deref(), Ok("//a//"));
        assert_eq!(normal("/a/../..;/%2e%2e//%2F../%62", &KEEP).as_deref(), Ok("/a/../..;/..//%2F../b"));
        assert_eq!(normal("/a/%00", &KEEP), Err(BadTarget::Nul));
    }

    #[test]
    fn a_normal_target_is_lent_and_not_copied() {
        for target in ["/", "/a/b/c.html?x=/../y", "/.well-known/acme-challenge/x", "/a%2Fb/caf%C3%A9", "/a/...", "*"] {
            assert!(matches!(normalise(target, &DEFAULT), Ok(Cow::Borrowed(_))), "{target}");
        }
    }

    fn any_rules() -> impl Strategy<Value = Paths> {
        let dots = prop::sample::select(vec![DotSegments::Resolve, DotSegments::Refuse, DotSegments::Keep]);
        let slashes = prop::sample::select(vec![Slashes::Merge, Slashes::Keep]);
        let escaped = prop::sample::select(vec![EscapedSlashes::Keep, EscapedSlashes::Refuse, EscapedSlashes::Decode]);
        (dots, slashes, escaped).prop_map(|(dot_segments, slashes, escaped_slashes)| Paths {
            dot_segments,
            slashes,
            escaped_slashes,
        })
    }

    /// Targets made of pieces that mean something to somebody.
    fn targets() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "/", "a", "b", ".", "..", "%2e", "%2E", "%2f", "%5C", "%3b", ";", "%61", "%c3%a9", "%25", "?",
            "%20", "%00", "%zz", "\\", "#", "é",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// What careless endpoints do before they walk a path: unescape, cut parameters, take backslashes for slashes.
    fn carelessly(path: &str) -> Vec<String> {
        let path = path.split('?').next().unwrap_or_default();
        let cut = |path: &str| -> String {
            path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect::<Vec<_>>().join("/")
        };
        let unescape = |path: &str| {
            path.replace("%2F", "/").replace("%5C", "\\").replace("%3B", ";").replace("%2E", ".").replace('\\', "/")
        };
        vec![path.into(), cut(path), unescape(path), cut(&unescape(path)), unescape(&cut(path))]
    }

    proptest! {
        #[test]
        fn the_normal_form_of_a_normal_form_is_itself(target in targets(), rules in any_rules()) {
            let Ok(once) = normal(&target, &rules) else { return Ok(()) };

            let again = normalise(&once, &rules);

            prop_assert!(matches!(again, Ok(Cow::Borrowed(_))), "{target} → {once} → {again:?}");
        }

        #[test]
        fn no_endpoint_however_careless_finds_a_dot_segment(target in targets(), rules in any_rules()) {
            prop_assume!(rules.dot_segments != DotSegments::Keep);
            let Ok(normal) = normal(&target, &rules) else { return Ok(()) };

            for read in carelessly(&normal) {
                prop_assert!(!read.split('/').any(|segment| matches!(segment, "." | "..")), "{target} → {normal} → {read}");
            }
        }

        #[test]
        fn plain_targets_resolve_as_in_rfc_3986(target in "(/(a|b|\\.|\\.\\.)){0,8}/?") {
            let target = if target.is_empty() { "/" } else { &target };
            let mut kept: Vec<&str> = Vec::new();
            let mut above = false;
            let segments: Vec<&str> = target[1..].split('/').collect();
            for (at, segment) in segments.iter().enumerate() {
                let last = at + 1 == segments.len();
                match *segment {
                    ".." => above |= kept.pop().is_none(),
                    "." => {}
                    name => {
                        kept.push(name);
                        continue;
                    }
                }
                if last {
                    kept.push("");
                }
            }
            let expected = if above { Err(BadTarget::AboveRoot) } else { Ok(format!("/{}", kept.join("/"))) };

            prop_assert_eq!(normal(target, &Paths { slashes: Slashes::Keep, ..DEFAULT }), expected);
        }

        #[test]
        fn any_text_at_all_is_accepted_or_refused_but_never_panics(target in any::<String>(), rules in any_rules()) {
            let _ = normalise(&target, &rules);
        }
    }
}
