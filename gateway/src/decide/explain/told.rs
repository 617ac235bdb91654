//! An explanation as people read it.

use std::fmt;

use super::{Explanation, Miss};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} from {}", self.request, self.client)?;
        if let Some(run) = &self.dyed {
            writeln!(f, "  dyed     by run {run}: asked for no limit and no challenge")?;
        }
        match &self.winner {
            None => writeln!(f, "  no route takes it: 404")?,
            Some(winner) => {
                writeln!(f, "  route    {}", winner.route)?;
                writeln!(f, "  because  {}", winner.matched.join(", "))?;
                if self.denied {
                    writeln!(f, "  denied   403: an access list keeps this address out")?;
                } else {
                    writeln!(f, "  goes     {}", winner.outcome)?;
                    if !winner.why.is_empty() {
                        writeln!(f, "  why      {}", winner.why)?;
                    }
                    if !winner.limits.is_empty() {
                        writeln!(f, "  limits   {}", winner.limits.join(", "))?;
                    }
                    if !winner.in_attack.is_empty() {
                        writeln!(f, "  attacked {}", winner.in_attack.join(", "))?;
                    }
                }
            }
        }
        if !self.losers.is_empty() {
            writeln!(f, "not taken by")?;
        }
        let width = self.losers.iter().map(|loser| loser.route.len()).max().unwrap_or(0);
        for loser in &self.losers {
            writeln!(f, "  {:width$}  {}", loser.route, loser.miss)?;
        }
        Ok(())
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(hosts) => write!(f, "is for host {hosts}"),
            Self::Path(path) => write!(f, "is for path {path}"),
            Self::Dyed(dyed) => write!(f, "is for requests {dyed}"),
            Self::Method(methods) => write!(f, "is for method {methods}"),
            Self::Header(name) => write!(f, "header {name} is absent or different"),
            Self::Query(name) => write!(f, "query parameter {name} is absent or different"),
            Self::Cookie(name) => write!(f, "cookie {name} is absent or different"),
            Self::LessSpecific => write!(f, "matches too, but is less specific"),
        }
    }
}
