//! Compares two JSON values, leaving out the paths that an operator named.
//!
//! Every text is a path, so nothing here can fail: `$.a.b`, `items[*].id`, `a["b.c"][0]`, `meta.*`.
//! The leading `$` is optional; `*` stands for every key, `[*]` for every element.

use serde_json::Value;

/// Paths to leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored(Vec<Vec<Step>>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
    AnyKey,
    AnyIndex,
}

impl Ignored {
    /// Reads `paths`.
    pub fn parse(paths: &[String]) -> Self {
        Self(paths.iter().map(|path| steps(path)).collect())
    }

    /// Where the two values first differ, as a path; `None` if they are equal apart from what is ignored.
    ///
    /// Objects are equal in any order of keys; numbers are equal by value (`1` is `1.0`).
    pub fn first_difference(&self, main: &Value, shadow: &Value) -> Option<String> {
        let rest: Vec<&[Step]> = self.0.iter().map(Vec::as_slice).collect();
        let mut at = String::from("$");
        differs(main, shadow, &rest, &mut at).then_some(at)
    }
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path.trim();
    rest = match rest.strip_prefix('$') {
        Some(after) if after.is_empty() || after.starts_with(['.', '[']) => after,
        _ => rest,
    };
    while !rest.is_empty() {
        if let Some((inside, after)) = rest.strip_prefix('[').and_then(bracket) {
            steps.push(match inside {
                Bracket::Any => Step::AnyIndex,
                Bracket::Index(index) => Step::Index(index),
                Bracket::Key(key) => Step::Key(key.to_owned()),
            });
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let end = rest.char_indices().skip(1).find(|(_, c)| matches!(c, '.' | '[')).map_or(rest.len(), |(at, _)| at);
        let (key, after) = rest.split_at(end);
        if !key.is_empty() {
            steps.push(if key == "*" { Step::AnyKey } else { Step::Key(key.to_owned()) });
        }
        rest = after;
    }
    steps
}

enum Bracket<'a> {
    Any,
    Index(usize),
    Key(&'a str),
}

/// Reads what follows a `[`, up to and with its `]`.
fn bracket(rest: &str) -> Option<(Bracket<'_>, &str)> {
    if let Some(quote @ ('"' | '\'')) = rest.chars().next() {
        let (key, after) = rest[1..].split_once(quote)?;
        return Some((Bracket::Key(key), after.strip_prefix(']')?));
    }
    let (inside, after) = rest.split_once(']')?;
    match inside {
        "*" => Some((Bracket::Any, after)),
        digits => Some((Bracket::Index(digits.parse().ok()?), after)),
    }
}

/// What is left of the ignored paths one step further down; `None` if that place is ignored itself.
fn descend<'a>(paths: &[&'a [Step]], matches: impl Fn(&Step) -> bool) -> Option<Vec<&'a [Step]>> {
    let below: Vec<_> = paths
        .iter()
        .filter_map(|path| path.split_first())
        .filter(|(step, _)| matches(step))
        .map(|(_, rest)| rest)
        .collect();
    (!below.iter().any(|rest| rest.is_empty())).then_some(below)
}

/// Leaves `at` on the first difference when it returns true, and as it was otherwise.
fn differs(main: &Value, shadow: &Value, ignored: &[&[Step]], at: &mut String) -> bool {
    if ignored.iter().any(|path| path.is_empty()) {
        return false;
    }
    match (main, shadow) {
        (Value::Object(main), Value::Object(shadow)) => {
            let only_shadow = shadow.keys().filter(|key| !main.contains_key(*key));
            for key in main.keys().chain(only_shadow) {
                let matches = |step: &Step| matches!(step, Step::AnyKey) || matches!(step, Step::Key(k) if k == key);
                let Some(below) = descend(ignored, matches) else { continue };
                let length = at.len();
                push_key(at, key);
                match (main.get(key), shadow.get(key)) {
                    (Some(main), Some(shadow)) if !differs(main, shadow, &below, at) => at.truncate(length),
                    _ => return true,
                }
            }
            false
        }
        (Value::Array(main), Value::Array(shadow)) => {
            for index in 0..main.len().max(shadow.len()) {
                let matches = |step: &Step| matches!(step, Step::AnyIndex) || *step == Step::Index(index);
                let Some(below) = descend(ignored, matches) else { continue };
                let length = at.len();
                at.push_str(&format!("[{index}]"));
                match (main.get(index), shadow.get(index)) {
                    (Some(main), Some(shadow)) if !differs(main, shadow, &below, at) => at.truncate(length),
                    _ => return true,
                }
            }
            false
        }
        (Value::Number(main), Value::Number(shadow)) => {
            main != shadow && (!(main.is_f64() || shadow.is_f64()) || main.as_f64() != shadow.as_f64())
        }
        _ => main != shadow,
    }
}

fn push_key(at: &mut String, key: &str) {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    if plain {
        at.push('.');
        at.push_str(key);
    } else {
        at.push_str(&format!("[{key:?}]"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn difference(main: &str, shadow: &str, ignored: &[&str]) -> Option<String> {
        let ignored = Ignored::parse(&ignored.iter().map(|&path| path.to_owned()).collect::<Vec<_>>());
        let value = |text| serde_json::from_str(text).expect("a test's JSON");
        ignored.first_difference(&value(main), &value(shadow))
    }

    #[test]
    fn the_first_difference_is_named_and_ignored_places_are_not() {
        let table: &[(&str, &str, &[&str], Option<&str>)] = &[
            // Equal values.
            (r#"{"a":1,"b":[true,null]}"#, r#"{"b":[true,null],"a":1}"#, &[], None),
            ("1", "1.0", &[], None),
            (r#"{"n":1e2}"#, r#"{"n":100}"#, &[], None),
            // Differences.
            ("1", "2", &[], Some("$")),
            ("1", r#""1""#, &[], Some("$")),
            ("18446744073709551615", "18446744073709551614", &[], Some("$")),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":2}}"#, &[], Some("$.a.b")),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#, &[], Some("$.b")),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#, &[], Some("$.b")),
            (r#"{"a":null}"#, "{}", &[], Some("$.a")),
            ("[1,2]", "[1,2,3]", &[], Some("$[2]")),
            (r#"{"x y":1}"#, r#"{"x y":2}"#, &[], Some(r#"$["x y"]"#)),
            (r#"{"a":[{"id":1},{"id":2}]}"#, r#"{"a":[{"id":1},{"id":3}]}"#, &[], Some("$.a[1].id")),
            // Ignored places.
            (r#"{"a":{"b":1,"c":1}}"#, r#"{"a":{"b":2,"c":1}}"#, &["$.a.b"], None),
            (r#"{"a":{"b":1,"c":1}}"#, r#"{"a":{"b":2,"c":1}}"#, &["a.b"], None),
            (r#"{"a":{"b":1,"c":1}}"#, r#"{"a":{"b":2,"c":2}}"#, &["$.a.b"], Some("$.a.c")),
            (r#"{"a":{"b":1}}"#, r#"{"a":7}"#, &["$.a"], None),
            (r#"{"a":{"b":1}}"#, r#"{"a":7}"#, &["$.a.b"], Some("$.a")),
            (r#"{"a":1}"#, "{}", &["a"], None),
            (r#"{"items":[{"id":1,"n":1}]}"#, r#"{"items":[{"id":2,"n":1}]}"#, &["items[*].id"], None),
            (r#"{"items":[{"id":1,"n":1}]}"#, r#"{"items":[{"id":2,"n":2}]}"#, &["items[*].id"], Some("$.items[0].n")),
            (r#"{"items":[1]}"#, r#"{"items":[2,3]}"#, &["items[*]"], None),
            ("[1,2]", "[9,2]", &["[0]"], None),
            ("[1,2]", "[1,9]", &["$[0]"], Some("$[1]")),
            ("[1]", "[2]", &["0"], Some("$[0]")),
            (r#"{"m":{"x":1,"y":2}}"#, r#"{"m":{"x":3}}"#, &["m.*"], None),
            (r#"{"a.b":1}"#, r#"{"a.b":2}"#, &[r#"["a.b"]"#], None),
            (r#"{"a.b":1}"#, r#"{"a.b":2}"#, &["a.b"], Some(r#"$["a.b"]"#)),
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":2}}"#, &["$['a']['b']"], None),
            (r#"{"$ref":1}"#, r#"{"$ref":2}"#, &["$ref"], None),
            ("1", "2", &["$"], None),
        ];

        for (main, shadow, ignored, expected) in table {
            assert_eq!(difference(main, shadow, ignored).as_deref(), *expected, "{main} {shadow} {ignored:?}");
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c.]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c.]{0,2}", inner), 0..4).prop_map(|pairs| pairs.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_text_is_a_path_and_no_value_differs_from_itself(value in json(), path in "[$.a-c*\\[\\]\"'0-9é]{0,12}") {
            let ignored = Ignored::parse(&[path]);

            prop_assert_eq!(ignored.first_difference(&value, &value), None);
        }

        #[test]
        fn what_differs_no_longer_does_when_its_place_is_ignored(main in json(), shadow in json()) {
            let mut ignored = Vec::new();

            // Each round names one more place; without an end to it, some place wasn't understood.
            for _ in 0..200 {
                let Some(at) = Ignored::parse(&ignored).first_difference(&main, &shadow) else { return Ok(()) };
                prop_assert!(!ignored.contains(&at), "{} is ignored already", at);
                ignored.push(at);
            }
            prop_assert!(false, "more differences than these values have places");
        }

        #[test]
        fn two_values_differ_the_same_way_round(main in json(), shadow in json()) {
            let ignored = Ignored::default();

            let there = ignored.first_difference(&main, &shadow).is_some();

            prop_assert_eq!(there, ignored.first_difference(&shadow, &main).is_some());
            prop_assert_eq!(there, main != shadow);
        }
    }
}
