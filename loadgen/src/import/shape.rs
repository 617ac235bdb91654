//! What requests have in common: `/item/7` and `/item/8` are of one kind.

use std::collections::HashMap;

use tidegate_model::scenario::recording::Request;

/// Requests of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// A name for people, also good as the name of a step: `get-item-id`.
    pub(super) name: String,
    /// The method.
    pub(super) method: String,
    /// The origin, where kinds are told apart by it.
    pub(super) origin: String,
    /// Indices of its requests, in their order.
    pub(super) requests: Vec<usize>,
}

/// Sorts `requests` into kinds by method, by the shape of their path and, with `by_origin`, by origin; the most frequent
/// first. Those beyond `most` are put together by method and origin.
pub(super) fn kinds(requests: &[Request], by_origin: bool, most: usize) -> Vec<Kind> {
    type Key<'r> = (&'r str, String, &'r str);
    let mut found: HashMap<Key<'_>, Vec<usize>> = HashMap::new();
    for (at, request) in requests.iter().enumerate() {
        let origin = if by_origin { request.origin.as_str() } else { "" };
        found.entry((&request.method, shape(&request.target), origin)).or_default().push(at);
    }
    let mut found: Vec<(Key<'_>, Vec<usize>)> = found.into_iter().collect();
    found.sort_by(|(a, a_requests), (b, b_requests)| b_requests.len().cmp(&a_requests.len()).then(a.cmp(b)));
    let mut rest: Vec<(Key<'_>, Vec<usize>)> = Vec::new();
    for ((method, _, origin), requests) in found.split_off(found.len().min(most.max(1))) {
        match rest.iter_mut().find(|((known, _, at), _)| *known == method && *at == origin) {
            Some((_, others)) => others.extend(requests),
            None => rest.push(((method, "/other".into(), origin), requests)),
        }
    }
    found.extend(rest);
    let mut kinds: Vec<Kind> = Vec::with_capacity(found.len());
    for ((method, shape, origin), mut requests) in found {
        requests.sort_unstable();
        let name = name(method, &shape);
        let twins = kinds.iter().filter(|kind| is_twin(&kind.name, &name)).count();
        let name = if twins > 0 { format!("{name}-{}", twins + 1) } else { name };
        kinds.push(Kind { name, method: method.to_owned(), origin: origin.to_owned(), requests });
    }
    kinds
}

/// Whether `name` is `plain`, or `plain` with a number behind it.
fn is_twin(name: &str, plain: &str) -> bool {
    name.strip_prefix(plain).is_some_and(|rest| {
        rest.is_empty()
            || rest
                .strip_prefix('-')
                .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// The path of `target` with what looks like an identifier replaced: `/item/{id}`.
fn shape(target: &str) -> String {
    let path = target.split('?').next().unwrap_or(target);
    let segments = path.split('/').map(|segment| if is_identifier(segment) { "{id}" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

/// Whether a segment of a path looks like an identifier: a number, a UUID, a hash, or a long word with digits in it.
fn is_identifier(segment: &str) -> bool {
    let stem = segment.split('.').next().unwrap_or(segment);
    let digits = stem.bytes().filter(u8::is_ascii_digit).count();
    let plain = stem.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_~%".contains(&byte));
    let is_number = !stem.is_empty() && digits == stem.len();
    let is_hash = stem.len() >= 8 && digits > 0 && stem.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    plain && (is_number || is_hash || stem.len() >= 16 && digits >= 2)
}

/// A name for a step: letters, digits and `-`, at most 60.
fn name(method: &str, shape: &str) -> String {
    let mut name = method.to_lowercase();
    for segment in shape.split('/').filter(|segment| !segment.is_empty()) {
        let plain: String = segment
            .chars()
            .map(|char| if char.is_ascii_alphanumeric() { char.to_ascii_lowercase() } else { '-' })
            .collect();
        name.push('-');
        name.push_str(plain.trim_matches('-'));
    }
    if shape == "/" {
        name.push_str("-front");
    }
    name.truncate(60);
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str) -> Request {
        Request { method: method.into(), target: target.into(), ..Request::default() }
    }

    #[test]
    fn identifiers_are_told_from_words() {
        for identifier in [
            "7",
            "0042",
            "550e8400-e29b-41d4-a716-446655440000",
            "deadbeef01",
            "a1b2c3d4e5f6.png",
            "dQw4w9WgXcQ-and-more-12",
        ] {
            assert!(is_identifier(identifier), "{identifier}");
        }
        for word in ["", "item", "v2", "main.js", "facade", "blue-suede-shoes", "index.html"] {
            assert!(!is_identifier(word), "{word}");
        }
    }

    #[test]
    fn kinds_come_by_frequency_and_the_rest_is_put_together() {
        let requests = [
            request("GET", "/item/1?x=1"),
            request("GET", "/item/2"),
            request("GET", "/item/3"),
            request("GET", "/"),
            request("GET", "/"),
            request("GET", "/rare/a"),
            request("GET", "/rarer"),
            request("HEAD", "/"),
        ];

        let kinds = kinds(&requests, false, 2);

        let seen: Vec<_> = kinds.iter().map(|kind| (kind.name.as_str(), kind.requests.as_slice())).collect();
        assert_eq!(
            seen,
            [("get-item-id", &[0, 1, 2][..]), ("get-front", &[3, 4]), ("get-other", &[5, 6]), ("head-other", &[7]),]
        );
    }

    #[test]
    fn names_are_told_apart() {
        let requests = [request("GET", "/a-b"), request("GET", "/a/b"), request("GET", "/a_b")];

        let mut names: Vec<String> = kinds(&requests, false, 10).into_iter().map(|kind| kind.name).collect();

        names.sort();
        assert_eq!(names, ["get-a-b", "get-a-b-2", "get-a-b-3"]);
    }
}
