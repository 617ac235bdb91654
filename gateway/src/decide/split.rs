//! Chooses the arm of a split for one request.
//!
//! Who is recognised (by `stick_by`, or by a cookie that the gateway issued) keeps their arm by
//! rendezvous hashing (`tidegate_model::split`); everybody else is spread evenly, without dice.
//!
//! The issued cookie is `<id>~<arm>`: the id decides, the arm is there so that a drained arm keeps
//! those who are on it, and so that a change of arm is noticed. It is asked after all of `stick_by`, unless
//! `stick_by` names it: then at its place there. A drained arm in it counts before anything else.
//!
//! # Invariants
//!
//! - An arm that is off is never chosen; a drained one only for holders of its cookie.
//! - A cookie is set only when it is new or the arm has changed.
//! - A cookie that isn't ours (malformed, oversized) is ignored and replaced.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::HeaderValue;
use rand::Rng;
use tidegate_model::desired::{Split, Weight};
use tidegate_model::split::{ArmSeed, rendezvous, spread};

use super::Head;
use super::key::{Network, ReadyKey, cookie};

/// Chooses arms for one split. Its rotation is handed on by `compile`.
pub struct Splitter {
    stick_by: Vec<ReadyKey>,
    arms: Vec<ReadyArm>,
    total: u64,
    issue: Option<Issue>,
    /// Shared with the splitter of the generation before, so that a reload doesn't restart the rotation.
    turn: Arc<AtomicU64>,
}

struct ReadyArm {
    seed: ArmSeed,
    weight: u32,
    drains: bool,
    /// The label with whatever a cookie can't hold percent-encoded.
    mark: String,
}

struct Issue {
    name: Box<str>,
    max_age: u64,
}

/// A cookie of ours: whose it is, and the arm it was issued for, if there still is such an arm.
struct Held<'a> {
    id: &'a str,
    on: Option<usize>,
}

/// An arm, and how it was come by.
#[derive(Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Index into the split's arms.
    pub arm: usize,
    /// Why this one.
    pub why: Why,
    /// A Set-Cookie line for the answer.
    pub set_cookie: Option<HeaderValue>,
}

/// How an arm was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is only one with weight.
    Only,
    /// By this entry of `stick_by`.
    Stuck(usize),
    /// By the id in the gateway's cookie, known or newly issued.
    Issued,
    /// The arm is drained, and this visitor was on it already.
    Drained,
    /// Nothing to recognise the visitor by: spread evenly.
    Spread,
}

impl Splitter {
    /// For `split`; takes over the rotation of `previous`.
    pub fn new(split: &Split, labels: &[Arc<str>], previous: Option<&Self>) -> Self {
        let arms = split.arms.iter().zip(labels).map(|(arm, label)| ReadyArm {
            seed: ArmSeed::new(&split.salt, label),
            weight: match arm.weight {
                Weight::Share(weight) => weight,
                Weight::Drain | Weight::Off => 0,
            },
            drains: arm.weight == Weight::Drain,
            mark: cookie_safe(label),
        });
        let arms: Vec<ReadyArm> = arms.collect();
        let issue = |issue: &tidegate_model::desired::IssueCookie| Issue {
            name: issue.name.as_str().into(),
            max_age: issue.max_age.as_secs(),
        };
        Self {
            stick_by: split.stick_by.iter().map(ReadyKey::new).collect(),
            total: arms.iter().map(|arm| u64::from(arm.weight)).sum(),
            arms,
            issue: split.issue.as_ref().map(issue),
            turn: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.turn)),
        }
    }

    /// The arm for `head`. `secure` marks an issued cookie for TLS only.
    pub fn choose(&self, head: &Head<'_>, client: Network, secure: bool, dice: &mut impl Rng) -> Chosen {
        if self.issue.is_none()
            && let [_] = &self.arms[..]
        {
            return Chosen { arm: 0, why: Why::Only, set_cookie: None };
        }
        let held = self.issue.as_ref().and_then(|issue| self.held(issue, head));
        if let Some(Held { on: Some(arm), .. }) = held
            && self.arms[arm].drains
        {
            return Chosen { arm, why: Why::Drained, set_cookie: None };
        }
        for (at, key) in self.stick_by.iter().enumerate() {
            if let Some(issue) = self.issue.as_ref().filter(|issue| key.is_cookie(&issue.name)) {
                if let Some(held) = &held {
                    return self.by_id(issue, held.id, held.on, secure);
                }
            } else if let Some(value) = key.read(head, client) {
                return Chosen { arm: self.nearest(value.as_bytes()), why: Why::Stuck(at), set_cookie: None };
            }
        }
        match (&self.issue, held) {
            (Some(issue), Some(held)) => self.by_id(issue, held.id, held.on, secure),
            (Some(issue), None) => self.by_id(issue, &format!("{:032x}", dice.random::<u128>()), None, secure),
            (None, _) => self.in_turn(),
        }
    }

    /// The next arm of the rotation.
    fn in_turn(&self) -> Chosen {
        let mut at = spread(self.turn.fetch_add(1, Relaxed), self.total);
        let arm = self.arms.iter().position(|arm| {
            let weight = u64::from(arm.weight);
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        });
        Chosen { arm: arm.unwrap_or(0), why: Why::Spread, set_cookie: None }
    }

    fn held<'a>(&self, issue: &Issue, head: &Head<'a>) -> Option<Held<'a>> {
        let (id, mark) = parse(cookie(head.headers, &issue.name)?)?;
        Some(Held { id, on: self.arms.iter().position(|arm| arm.mark == mark) })
    }

    fn by_id(&self, issue: &Issue, id: &str, on: Option<usize>, secure: bool) -> Chosen {
        let arm = self.nearest(id.as_bytes());
        let set_cookie = (on != Some(arm)).then(|| issue.line(id, &self.arms[arm].mark, secure));
        Chosen { arm, why: Why::Issued, set_cookie }
    }

    fn nearest(&self, key: &[u8]) -> usize {
        rendezvous(self.arms.iter().map(|arm| (arm.seed, arm.weight)), key).unwrap_or(0) // Check refuses a split without weight.
    }
}

impl Issue {
    fn line(&self, id: &str, mark: &str, secure: bool) -> HeaderValue {
        let Self { name, max_age } = self;
        let secure = if secure { "; Secure" } else { "" };
        HeaderValue::try_from(format!("{name}={id}~{mark}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax{secure}"))
            .expect("check refuses illegal cookie names, and the rest is plain ASCII")
    }
}

/// Splits a cookie of ours into id and mark. Longer ids than we would ever issue are somebody else's.
fn parse(value: &[u8]) -> Option<(&str, &str)> {
    let (id, mark) = std::str::from_utf8(value).ok()?.split_once('~')?;
    let ours = (16..=64).contains(&id.len()) && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ours.then_some((id, mark))
}

fn cookie_safe(label: &str) -> String {
    let mut safe = String::with_capacity(label.len());
    for byte in label.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            safe.push(char::from(byte));
        } else {
            let _ = write!(safe, "%{byte:02x}"); // Writing to a String can't fail.
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tidegate_model::desired::{IssueCookie, Key};

    use super::super::testkit::{Asked, split};
    use super::*;

    fn splitter(split: &Split) -> Splitter {
        let labels: Vec<Arc<str>> = (1..=split.arms.len()).map(|n| format!("shop/v{n}").into()).collect();
        Splitter::new(split, &labels, None)
    }

    fn issuing(weights: &[Weight]) -> Split {
        let issue = IssueCookie { name: "tg".into(), max_age: Duration::from_secs(3_600) };
        Split { issue: Some(issue), ..split(weights) }
    }

    fn visitor() -> Network {
        Network::of([192, 0, 2, 7].into(), 64)
    }

    fn choose(splitter: &Splitter, asked: &Asked) -> Chosen {
        splitter.choose(&asked.head(), visitor(), false, &mut StdRng::seed_from_u64(7))
    }

    fn with_cookie(cookie: &str) -> Asked {
        Asked::get("h", "/").header("cookie", cookie)
    }

    #[test]
    fn without_a_key_95_to_5_is_met_within_five_hundredths_of_a_point() {
        let splitter = splitter(&split(&[Weight::Share(95), Weight::Share(5)]));

        let second = (0..100_000).filter(|_| choose(&splitter, &Asked::get("h", "/")).arm == 1).count();

        assert!((4_950..=5_050).contains(&second), "{second}");
    }

    #[test]
    fn the_rotation_goes_on_after_a_reload() {
        let spec = split(&[Weight::Share(1), Weight::Share(1)]);
        let labels: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let never_reloaded = Splitter::new(&spec, &labels, None);
        let mut reloaded = Splitter::new(&spec, &labels, None);

        let same = (0..100).all(|_| {
            reloaded = Splitter::new(&spec, &labels, Some(&reloaded));
            choose(&reloaded, &Asked::get("h", "/")).arm == choose(&never_reloaded, &Asked::get("h", "/")).arm
        });

        assert!(same);
    }

    #[test]
    fn the_first_key_that_is_present_and_not_empty_decides() {
        let stick_by = vec![Key::Cookie("uid".into()), Key::Header("x-user".into()), Key::ClientIp];
        let splitter = splitter(&Split { stick_by, ..split(&[Weight::Share(50), Weight::Share(50)]) });

        let by = |asked: Asked| choose(&splitter, &asked).why;

        assert_eq!(by(with_cookie("uid=1").header("x-user", "2")), Why::Stuck(0));
        assert_eq!(by(with_cookie("uid=").header("x-user", "2")), Why::Stuck(1));
        assert_eq!(by(Asked::get("h", "/").header("x-user", "")), Why::Stuck(2));
        let arms = |asked: &Asked| (0..10).map(|_| choose(&splitter, asked).arm).collect::<Vec<_>>();
        assert!((0..50).all(|n| arms(&with_cookie(&format!("uid={n}"))).windows(2).all(|two| two[0] == two[1])));
    }

    #[test]
    fn an_issued_cookie_is_set_once_and_brings_its_holder_back_to_the_same_arm() {
        let splitter = splitter(&issuing(&[Weight::Share(50), Weight::Share(50)]));

        let first = choose(&splitter, &Asked::get("h", "/"));
        let line = first.set_cookie.as_ref().unwrap().to_str().unwrap();
        let again = choose(&splitter, &with_cookie(line.split(';').next().unwrap()));

        assert_eq!(first.why, Why::Issued);
        assert!(line.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax"), "{line}");
        assert_eq!(again, Chosen { arm: first.arm, why: Why::Issued, set_cookie: None });
    }

    #[test]
    fn a_cookie_issued_over_tls_is_secure() {
        let splitter = splitter(&issuing(&[Weight::Share(1), Weight::Share(1)]));

        let chosen = splitter.choose(&Asked::get("h", "/").head(), visitor(), true, &mut StdRng::seed_from_u64(7));

        assert!(chosen.set_cookie.unwrap().to_str().unwrap().ends_with("; Secure"));
    }

    #[test]
    fn a_drained_arm_keeps_its_holders_and_one_that_is_off_loses_them() {
        let holder = with_cookie("tg=0123456789abcdef~shop/v2");

        let drained = choose(&splitter(&issuing(&[Weight::Share(1), Weight::Drain])), &holder);
        let off = choose(&splitter(&issuing(&[Weight::Share(1), Weight::Off])), &holder);

        assert_eq!(drained, Chosen { arm: 1, why: Why::Drained, set_cookie: None });
        assert_eq!(off.arm, 0);
        assert!(off.set_cookie.unwrap().to_str().unwrap().starts_with("tg=0123456789abcdef~shop/v1;"));
    }

    #[test]
    fn the_issued_cookie_may_be_named_in_stick_by_and_a_drained_holder_stays_whatever_else_is_known() {
        let stick_by = vec![Key::Cookie("tg".into()), Key::Cookie("uid".into())];
        let both = Split { stick_by, ..issuing(&[Weight::Share(50), Weight::Share(50)]) };
        let drained = Split { stick_by: vec![Key::ClientIp], ..issuing(&[Weight::Share(1), Weight::Drain]) };

        let named = splitter(&both);
        let first = choose(&named, &Asked::get("h", "/"));
        let line = first.set_cookie.unwrap();
        let again = choose(&named, &with_cookie(line.to_str().unwrap().split(';').next().unwrap()));
        let holder = choose(&splitter(&drained), &with_cookie("tg=0123456789abcdef~shop/v2"));

        assert_eq!(again, Chosen { arm: first.arm, why: Why::Issued, set_cookie: None });
        assert_eq!(choose(&named, &with_cookie("uid=1")).why, Why::Stuck(1));
        assert_eq!(holder.why, Why::Drained);
    }

    #[test]
    fn nobody_new_reaches_a_drained_arm() {
        let sticky = Split {
            stick_by: vec![Key::Cookie("uid".into())],
            ..issuing(&[Weight::Share(1), Weight::Drain, Weight::Off])
        };
        let splitter = splitter(&sticky);

        assert!((0..200).all(|n| choose(&splitter, &with_cookie(&format!("uid={n}"))).arm == 0));
        assert_eq!(choose(&splitter, &Asked::get("h", "/")).arm, 0);
    }

    #[test]
    fn a_cookie_that_is_not_ours_is_replaced() {
        let splitter = splitter(&issuing(&[Weight::Share(1), Weight::Drain]));
        let long = "a".repeat(65);
        for value in [
            "",
            "~",
            "~shop/v2",
            "0123456789abcde~shop/v2",
            "0123456789ABCDEF~shop/v2",
            "x",
            &format!("{long}~shop/v2"),
        ] {
            let chosen = choose(&splitter, &with_cookie(&format!("tg={value}")));

            assert_eq!(chosen.arm, 0, "{value}");
            assert!(
                chosen.set_cookie.is_some_and(|line| !line.to_str().unwrap().contains(value) || value.len() < 2),
                "{value}"
            );
        }
    }

    #[test]
    fn raising_an_arm_moves_holders_only_onto_it_and_tells_them() {
        let before = splitter(&issuing(&[Weight::Share(95), Weight::Share(5)]));
        let after = splitter(&issuing(&[Weight::Share(80), Weight::Share(20)]));
        for n in 0..2_000u64 {
            let id = format!("{:016x}", n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let was = choose(&before, &with_cookie(&format!("tg={id}~shop/v1"))).arm;
            let holder = with_cookie(&format!("tg={id}~shop/v{}", was + 1));

            let now = choose(&after, &holder);

            assert!(now.arm == was || now.arm == 1, "{id}: {was} -> {}", now.arm);
            assert_eq!(now.set_cookie.is_some(), now.arm != was);
        }
    }
}
