//! Dyed traffic: requests of a load test, marked so that every service can tell them from live ones.

use std::path::PathBuf;
use std::time::Duration;

/// How dyed traffic is told, and when it is shed.
#[derive(Clone, Debug, PartialEq)]
pub struct Dyed {
    /// Files with a key each, at least one. A mark that any of them has signed is believed.
    pub keys: Vec<PathBuf>,
    /// When it is shed for the sake of live traffic; `None`: only where there is no room.
    pub shed: Option<Shed>,
}

/// When dyed traffic is shed for the sake of live traffic. Each service is judged by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shed {
    /// What live traffic is promised, one to eight; dyed traffic is shed when one of them is broken.
    pub when: Vec<Objective>,
    /// Over which span live traffic is looked at.
    pub over: Duration,
    /// Live requests in that span that are needed to judge.
    pub least: u32,
    /// Whether a breach at one service sheds dyed traffic to all of them.
    pub everywhere: bool,
}

impl Shed {
    /// Conditions that one configuration may have.
    pub const MOST: usize = 8;
}

/// A promise, and which share of requests may break it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objective {
    /// What a request is promised.
    pub promise: Promise,
    /// Requests that may be worse, in millionths; less than a million.
    pub allowed: u32,
}

/// What a request is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// A status below 500.
    NoError,
    /// The answer's head, this soon after the request's.
    Within(Duration),
}

/// Which dyed traffic a route takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DyedMatch {
    /// Of any run.
    Any,
    /// Of this run.
    Run(String),
}
