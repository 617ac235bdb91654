//! The challenge: how a visitor whom nobody knows shows that they are a person with a browser.
//!
//! ```text
//! GET /shop ──▶ a page with a question ──▶ its script works ──▶ GET /.tidegate/challenge?q=QUESTION&n=ANSWER&to=/shop
//!                                                              ──▶ 303 to /shop, with a signed cookie
//! ```
//!
//! With `mode: redirect` the first answer is a 307 to the same place with the cookie: any client that keeps cookies
//! passes, scripts and feeds too.
//!
//! # Invariants
//!
//! - Nothing is remembered of a challenge: questions and passes are signed ([`token`](super::token)).
//! - Only what a browser navigates to is answered with the page. Everything else, and every method with a body, is
//!   refused with words and Retry-After, so that no form is lost silently.
//! - The visitor is only ever sent to a path on the same host.
//! - The cookie is the gateway's: it never reaches an endpoint.
//!
//! # Not here
//!
//! Who is asked is decided in `visitor`; when, in `decide` and `gate`.

use std::net::IpAddr;
use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tidegate_model::desired::Challenge;

use super::crowd::{Challenged, Crowd};
use super::token::{Holder, Keys};
use crate::decide::key::{cookie, query};
use crate::decide::{Answer, Head, HeaderLines, Reason};

/// Where answers are brought to.
pub const PATH: &str = "/.tidegate/challenge";

/// The cookie that a pass travels in.
pub const COOKIE: &str = "tidegate_pass";

/// Seconds after which those who can't be challenged may try again.
const RETRY_AFTER: u16 = 10;

const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The page, with its script, split where values go.
static PAGE: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let page = include_str!("challenge.html").replace("{script}", include_str!("challenge.js").trim_end());
    let marked = ["{question}", "{bits}", "{to}", "{nonce}"]
        .iter()
        .enumerate()
        .fold(page, |page, (at, name)| page.replace(name, &format!("\0{at}\0")));
    String::leak(marked).split('\0').collect()
});

/// A [`Challenge`], ready for requests.
#[derive(Clone, Debug)]
pub struct Challenger {
    keys: Keys,
    spec: Challenge,
}

impl Challenger {
    /// A challenger that signs with `keys`.
    pub fn new(spec: &Challenge, keys: Keys) -> Self {
        Self { keys, spec: spec.clone() }
    }

    /// Whether this request's client would understand a challenge: a browser that navigates; with `mode: redirect`,
    /// whoever asks without a body.
    pub fn is_understood(&self, head: &Head<'_>) -> bool {
        let safe = *head.method == Method::GET || *head.method == Method::HEAD;
        safe && (self.spec.redirect || is_navigation(head.headers))
    }

    /// Whether the request brings a pass of its own.
    pub fn admits(&self, head: &Head<'_>, holder: Holder<'_>, unix: u64) -> bool {
        cookie(head.headers, COOKIE).is_some_and(|pass| self.keys.admits(pass, holder, self.work(), unix))
    }

    /// Asks. `status` is for the page; a redirect is always a 307.
    pub fn ask(&self, asking: &Asking<'_, '_>, status: u16, crowd: &Crowd) -> Answer {
        crowd.challenged(Challenged::Asked);
        let Asking { head, client, holder, https, unix } = *asking;
        let to = local(head.path, head.query);
        if self.spec.redirect {
            let mut answer = Answer::text(307, Reason::Challenged, client, "one moment: come again with this cookie\n");
            answer.headers.extend(self.cookie(holder, https, unix));
            answer.headers.extend(HeaderValue::try_from(to).ok().map(|to| (header::LOCATION, to)));
            return closed(answer);
        }
        let question = self.keys.question(holder, self.spec.work, unix);
        let nonce = question.rsplit('.').next().unwrap_or_default();
        let mut answer = Answer::text(status, Reason::Challenged, client, "");
        answer.body = Bytes::from(page(&question, self.spec.work, &to, nonce));
        answer.headers[0].1 = HeaderValue::from_static("text/html; charset=utf-8");
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'self'"
        );
        let policy = HeaderValue::try_from(policy).ok();
        answer.headers.extend(policy.map(|policy| (header::CONTENT_SECURITY_POLICY, policy)));
        closed(answer)
    }

    /// The answer to a request for [`PATH`]: a pass and the way back, or words.
    pub fn answered(&self, asking: &Asking<'_, '_>, crowd: &Crowd) -> Answer {
        let Asking { head, client, holder, https, unix } = *asking;
        let value = |name| {
            let value = query(head.query.unwrap_or_default(), name)?;
            String::from_utf8(value.into_owned()).ok()
        };
        let done = value("q")
            .zip(value("n"))
            .and_then(|(question, answer)| self.keys.is_answered(&question, &answer, holder, unix))
            .filter(|done| *done >= self.work());
        if done.is_none() {
            crowd.challenged(Challenged::Failed);
            const WORDS: &str = "403: this check was not passed, or took too long. Go back, and load the page again.\n";
            return closed(Answer::text(403, Reason::Challenged, client, WORDS));
        }
        crowd.challenged(Challenged::Passed);
        let to = value("to").unwrap_or_default();
        let to = HeaderValue::try_from(local(&to, None)).unwrap_or(HeaderValue::from_static("/"));
        let mut answer = Answer::text(303, Reason::Challenged, client, "thank you: see the Location header\n");
        answer.headers.push((header::LOCATION, to));
        answer.headers.extend(self.cookie(holder, https, unix));
        closed(answer)
    }

    fn work(&self) -> u8 {
        if self.spec.redirect { 0 } else { self.spec.work }
    }

    fn cookie(&self, holder: Holder<'_>, https: bool, unix: u64) -> Option<(HeaderName, HeaderValue)> {
        let valid = self.spec.valid.as_secs();
        let pass = self.keys.pass(holder, self.work(), unix + valid);
        let secure = if https { "; Secure" } else { "" };
        let line = format!("{COOKIE}={pass}; Path=/; Max-Age={valid}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(line).ok().map(|line| (header::SET_COOKIE, line))
    }
}

/// Everything a challenge depends on.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a, 'h> {
    /// What was asked for.
    pub head: &'a Head<'h>,
    /// The visitor's address.
    pub client: IpAddr,
    /// Whom tokens are for.
    pub holder: Holder<'a>,
    /// Whether the visitor came by https.
    pub https: bool,
    /// The Unix time in seconds.
    pub unix: u64,
}

/// The answer to somebody whom there is no room for, and who can't be challenged.
pub fn turned_away(client: IpAddr, status: u16, sentence: &'static str) -> Answer {
    let mut answer = Answer::text(status, Reason::Shed, client, sentence);
    answer.headers.push((header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER)));
    closed(answer)
}

/// The Cookie lines of `headers` without the pass; `None` where there is none among them.
pub fn without_pass(headers: &HeaderMap) -> Option<Vec<HeaderValue>> {
    cookie(headers, COOKIE)?;
    let is_pass = |pair: &&[u8]| {
        pair.trim_ascii().strip_prefix(COOKIE.as_bytes()).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
    };
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| {
        let pairs: Vec<&[u8]> = line.as_bytes().split(|byte| *byte == b';').filter(|pair| !is_pass(pair)).collect();
        let rest = pairs.join(&b';');
        let rest = rest.trim_ascii();
        if rest.is_empty() { None } else { HeaderValue::from_bytes(rest).ok() }
    });
    Some(lines.collect())
}

/// Whether a browser navigates here: it wants HTML, and it isn't a script or an image that asks (Fetch Metadata, W3C).
fn is_navigation(headers: &HeaderMap) -> bool {
    let html = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.as_bytes().windows(9).any(|part| part.eq_ignore_ascii_case(b"text/html")));
    let into_a_page =
        headers.get(SEC_FETCH_DEST).is_none_or(|dest| matches!(dest.as_bytes(), b"document" | b"iframe" | b"frame"));
    html && into_a_page
}

/// `path` and `query` as a place on the same host, whatever they say. Browsers take a second slash or backslash at the
/// front for the beginning of a host, and leave tabs and line breaks out.
fn local(path: &str, query: Option<&str>) -> String {
    let rest = path.trim_start_matches(['/', '\\']);
    let (separator, query) = query.map_or(("", ""), |query| ("?", query));
    let to = format!("/{rest}{separator}{query}");
    let starts_well = path.starts_with('/');
    if starts_well && to.bytes().all(|byte| byte.is_ascii_graphic()) { to } else { "/".into() }
}

fn page(question: &str, bits: u8, to: &str, nonce: &str) -> String {
    let mut page = String::with_capacity(8 << 10);
    for part in PAGE.iter() {
        match *part {
            "0" => page.push_str(question),
            "1" => page.push_str(itoa::Buffer::new().format(bits)),
            "2" => to.chars().for_each(|c| match c {
                '&' => page.push_str("&amp;"),
                '"' => page.push_str("&quot;"),
                '<' => page.push_str("&lt;"),
                '>' => page.push_str("&gt;"),
                c => page.push(c),
            }),
            "3" => page.push_str(nonce),
            text => page.push_str(text),
        }
    }
    page
}

/// No cache may keep it, and no answer is for anybody else.
fn closed(mut answer: Answer) -> Answer {
    let lines: [(HeaderName, HeaderValue); 2] = [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::VARY, HeaderValue::from_static("accept, cookie")),
    ];
    answer.headers.extend(HeaderLines::from_iter(lines));
    if answer.status == 503 || answer.status == 429 {
        let has = answer.headers.iter().any(|(name, _)| name == header::RETRY_AFTER);
        answer.headers.extend((!has).then(|| (header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER))));
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::token::tests::solve;
    use super::*;
    use crate::decide::key::Network;
    use crate::decide::testkit::Asked;

    const UNIX: u64 = 1_800_000_000;

    fn challenger(redirect: bool) -> Challenger {
        let spec = Challenge { redirect, work: 8, valid: Duration::from_secs(3_600), secret: None };
        Challenger::new(&spec, Keys::read("a secret of some length").unwrap())
    }

    fn asking<'a, 'h>(head: &'a Head<'h>) -> Asking<'a, 'h> {
        let client: IpAddr = "192.0.2.7".parse().unwrap();
        let holder = Holder { network: Network::of(client, 64), host: head.host };
        Asking { head, client, holder, https: true, unix: UNIX }
    }

    fn line<'a>(answer: &'a Answer, name: &str) -> &'a str {
        let found = answer.headers.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value.to_str().unwrap())
    }

    fn browser(path: &str) -> Asked {
        Asked::get("shop.example.com", path).header("accept", "text/html,application/xhtml+xml,*/*;q=0.8")
    }

    /// The value of a data attribute on the page.
    fn data<'a>(page: &'a str, name: &str) -> &'a str {
        page.split(&format!("data-{name}=\"")).nth(1).unwrap().split('"').next().unwrap()
    }

    #[test]
    fn whoever_does_the_work_gets_a_pass_and_is_sent_back_where_they_were() {
        let (challenger, crowd) = (challenger(false), Crowd::default());
        let asked = browser("/cart").query("item=1&size=2");
        let page = challenger.ask(&asking(&asked.head()), 503, &crowd);
        let html = std::str::from_utf8(&page.body).unwrap().to_owned();
        let question = data(&html, "question");

        let brought =
            browser(PATH).query(&format!("q={question}&n={}&to=%2Fcart%3Fitem%3D1%26size%3D2", solve(question)));
        let thanks = challenger.answered(&asking(&brought.head()), &crowd);

        assert_eq!((page.status, data(&html, "to")), (503, "/cart?item=1&amp;size=2"));
        assert_eq!((thanks.status, line(&thanks, "location")), (303, "/cart?item=1&size=2"));
        let cookie = line(&thanks, "set-cookie");
        assert!(cookie.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
        let next = browser("/cart").header("cookie", &format!("a=1; {}", cookie.split(';').next().unwrap()));
        let admits = |unix| challenger.admits(&next.head(), asking(&next.head()).holder, unix);
        assert!(admits(UNIX + 3_599) && !admits(UNIX + 3_600));
    }

    #[test]
    fn a_wrong_answer_gets_words_and_no_pass() {
        let (challenger, crowd) = (challenger(false), Crowd::default());
        for query in ["", "q=1.8.00&n=1&to=/", "q&n&to"] {
            let brought = browser(PATH).query(query);

            let answer = challenger.answered(&asking(&brought.head()), &crowd);

            assert_eq!((answer.status, line(&answer, "set-cookie")), (403, ""), "{query}");
        }
    }

    #[test]
    fn the_page_runs_only_its_own_script_and_is_kept_by_nobody() {
        let asked = browser("/");

        let page = challenger(false).ask(&asking(&asked.head()), 503, &Crowd::default());

        let html = std::str::from_utf8(&page.body).unwrap();
        let nonce = html.split("<script nonce=\"").nth(1).unwrap().split('"').next().unwrap();
        assert!(line(&page, "content-security-policy").contains(&format!("script-src 'nonce-{nonce}'")));
        assert_eq!((line(&page, "cache-control"), line(&page, "retry-after")), ("no-store", "10"));
        assert!(!html.contains("src=") && !html.contains("http://") && !html.contains("https://"), "nothing is loaded");
        assert!(html.len() < 10_000, "{}", html.len());
    }

    #[test]
    fn only_navigations_are_asked_and_methods_with_bodies_never() {
        let understood = |asked: Asked| challenger(false).is_understood(&asked.head());

        assert!(understood(browser("/").header("sec-fetch-dest", "document")));
        assert!(!understood(browser("/").method("POST")));
        assert!(!understood(browser("/").header("sec-fetch-dest", "empty")), "a script's fetch");
        assert!(!understood(Asked::get("h", "/").header("accept", "*/*")), "curl");
        assert!(!understood(Asked::get("h", "/a.png").header("accept", "image/avif,image/*;q=0.8")));
        assert!(challenger(true).is_understood(&Asked::get("h", "/").head()), "a redirect is understood by all");
    }

    #[test]
    fn a_redirect_gives_a_pass_that_is_worth_no_work() {
        let asked = Asked::get("shop.example.com", "//evil.test/a").query("b");

        let answer = challenger(true).ask(&asking(&asked.head()), 503, &Crowd::default());

        assert_eq!((answer.status, line(&answer, "location")), (307, "/evil.test/a?b"));
        let pass = line(&answer, "set-cookie").split(';').next().unwrap().to_owned();
        let next = asked.header("cookie", &pass);
        assert!(challenger(true).admits(&next.head(), asking(&next.head()).holder, UNIX));
        assert!(!challenger(false).admits(&next.head(), asking(&next.head()).holder, UNIX));
    }

    #[test]
    fn the_pass_is_taken_out_of_the_cookies_and_nothing_else_is() {
        let strip = |line: &str| {
            let asked = Asked::get("h", "/").header("cookie", line);
            without_pass(&asked.headers)
                .map(|lines| lines.iter().map(|l| l.to_str().unwrap().to_owned()).collect::<Vec<_>>())
        };

        assert_eq!(strip("a=1; tidegate_pass=x; b=2"), Some(vec!["a=1; b=2".into()]));
        assert_eq!(strip("tidegate_pass=x"), Some(vec![]));
        assert_eq!(strip("a=tidegate_pass=x; xtidegate_pass=1"), None);
    }

    #[test]
    fn what_is_put_into_the_page_stays_text() {
        let asked = browser("/\"><script>alert(1)</script>");

        let page = challenger(false).ask(&asking(&asked.head()), 503, &Crowd::default());

        assert!(!std::str::from_utf8(&page.body).unwrap().contains("<script>alert"));
    }

    proptest! {
        #[test]
        fn nobody_is_sent_to_another_host(path in "[/\\\\a-z.:@\t ]{0,12}", query in proptest::option::of("[a-z/\\\\ ]{0,6}")) {
            let to = local(&path, query.as_deref());

            prop_assert!(to.starts_with('/'));
            prop_assert!(!to[1..].starts_with(['/', '\\']), "{}", to);
            prop_assert!(to.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
