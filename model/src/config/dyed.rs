//! Dyed traffic: its keys, and when it is shed.

use super::decode::{At, Many};
use super::section::section;
use crate::literal::{Breach, FilePath, ReachOf, Time, Whole};

section! {
    /// Dyed traffic: requests of a load test, marked so that every service can tell them from live ones. A request whose
    /// `x-pt` header is signed by one of the keys is dyed; `baggage` then says `pt=RUN`, and both go on to the endpoint.
    /// Marks that don't verify are taken off. Dyed requests are counted in metrics of their own, use up no limit and get
    /// nobody banned, and are the first to be shed.
    pub struct Dyed {
        /// Keys that marks are signed with. A mark that any of them has signed is believed, so that keys can be replaced.
        pub keys: Vec<DyedKey>,
        /// When dyed traffic is shed for the sake of live traffic. Left out: only in an attack, and where a `capacity` is
        /// used up.
        pub shed: Option<DyedShed>,
    }
}

section! {
    /// A key that marks are signed with.
    pub struct DyedKey {
        /// A file with the key, at least 16 characters in its only line. `tidegate mark key` makes a good one.
        pub file: At<FilePath>,
    }
}

section! {
    /// When dyed traffic is shed for the sake of live traffic. Each service's live traffic is looked at by itself. When a
    /// condition holds, dyed requests are answered 503; when none has held for as long as is looked at, they come back by
    /// and by.
    pub struct DyedShed {
        /// Conditions on live traffic, of which one suffices: `errors > 1%` (answers of 500 and more), `p99 > 300ms` (from
        /// the request's head to the answer's).
        pub when: Many<At<Breach>>,
        /// How far back live traffic is looked at, from 1 s to 10 min.
        #[schemars(extend("default" = "10s"))]
        pub over: Option<At<Time>>,
        /// Live requests in that time without which nothing is judged.
        #[schemars(extend("default" = 20))]
        pub least: Option<At<Whole<1, 1_000_000>>>,
        /// What is shed when a service's live traffic suffers: dyed requests to this `service`, or those to `all`.
        #[schemars(extend("default" = "service"))]
        pub reach: Option<At<ReachOf>>,
    }
}
