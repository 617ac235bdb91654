//! Names of what a configuration defines, and how they are referred to.

use serde_json::{Value, json};

use super::{Literal, Wrong};

/// The name of a listener, limit, service, version or route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(pub String);

/// Characters of a name. Names become metric labels and cookie values.
const NAME_MAX: usize = 100;

impl Literal for Name {
    const WHAT: &'static str = "a name";
    const CODE: &'static str = "bad-name";
    const EXAMPLES: &'static [&'static str] = &["shop"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "letters, digits, -, _ and . are possible, a letter or digit in front";
        if text.is_empty() {
            return Err(Wrong::new("the name is empty").help(FORM));
        }
        if text.len() > NAME_MAX {
            return Err(Wrong::new(format!("a name has at most {NAME_MAX} characters")));
        }
        let odd = text.chars().find(|char| !char.is_ascii_alphanumeric() && !"-_.".contains(*char));
        if let Some(char) = odd {
            return Err(Wrong::new(format!("a name can't hold {char:?}")).help(FORM));
        }
        if !text.starts_with(|char: char| char.is_ascii_alphanumeric()) {
            return Err(Wrong::new("a name begins with a letter or digit").help(FORM));
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"})
    }
}

/// A service, or one of its versions: `shop`, `shop/v1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service.
    pub service: String,
    /// The version, where it was written.
    pub version: Option<String>,
}

impl Literal for Target {
    const WHAT: &'static str = "a service";
    const CODE: &'static str = "bad-target";
    const EXAMPLES: &'static [&'static str] = &["shop", "shop/v1"];

    fn parse(text: &str) -> Result<Self, Wrong> {
        const FORM: &str = "write \"shop\", or \"shop/v1\" for one version of it";
        if text.contains("://") || text.contains(':') {
            let help = "define a service with this endpoint, and write its name here";
            return Err(Wrong::new("this is an address, not a service").help(help));
        }
        let (service, version) = match text.split_once('/') {
            Some((service, version)) => (service, Some(version)),
            None => (text, None),
        };
        for part in [Some(service), version].into_iter().flatten() {
            Name::parse(part).map_err(|wrong| Wrong::new(wrong.label).help(FORM))?;
        }
        Ok(Self { service: service.to_owned(), version: version.map(str::to_owned) })
    }
}
