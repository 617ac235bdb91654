//! Why somebody is banned, in two bytes for each ban: texts are few (names of limits, what people write), so they are
//! numbered.

use std::sync::{Arc, Mutex};

use super::lock;

/// Different reasons that are told apart. Beyond them a ban says that there were too many.
const REASONS: usize = u16::MAX as usize;

/// Characters of a reason. The rest is cut off.
pub const REASON_LENGTH: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct Reasons(Mutex<Vec<Arc<str>>>);

impl Default for Reasons {
    fn default() -> Self {
        Self(Mutex::new(vec!["too many different reasons".into()]))
    }
}

impl Reasons {
    /// The number of a reason, without its control characters. They are few, so they are searched.
    pub fn number(&self, text: &str) -> u16 {
        let text: String = text.chars().filter(|char| !char.is_control()).take(REASON_LENGTH).collect();
        let mut reasons = lock(&self.0);
        let known = reasons.iter().rposition(|known| **known == *text);
        let at = match known {
            Some(at) => at,
            None if reasons.len() < REASONS => {
                reasons.push(text.into());
                reasons.len() - 1
            }
            None => 0,
        };
        at as u16
    }

    /// What a number from [`Reasons::number`] stands for.
    pub fn text(&self, number: u16) -> Arc<str> {
        Arc::clone(&lock(&self.0)[usize::from(number)])
    }
}
