//! What a read must see, and where it may be asked for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::pb;
use crate::pb::request::Consistency as Wire;

/// What a read must see. Pages and regions of a scan are read one after the other in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Every write that ended before the call started. The leader asks a quorum. Rests on no clock.
    #[default]
    Linearizable,
    /// The same by the leader's lease, without asking anybody: rests on the stores' clocks, whose rates
    /// may differ by a tenth. A leader without a lease does as with `Linearizable`.
    Lease,
    /// The same at any replica, which asks the leader: takes load off it. Rests on no clock.
    Follower,
    /// Every write that ended this much (1 ms or more, in whole milliseconds) before the call started, at
    /// any replica. One that may be older asks the leader, and refuses if none answers.
    Stale(Duration),
}

impl Consistency {
    /// Whether every replica may serve it.
    pub(crate) fn anywhere(self) -> bool {
        matches!(self, Consistency::Follower | Consistency::Stale(_))
    }

    /// The bound in milliseconds, 0 if it is not bounded.
    pub(crate) fn staleness_ms_max(self) -> u64 {
        match self {
            Consistency::Stale(bound) => u64::try_from(bound.as_millis()).unwrap_or(u64::MAX),
            _ => 0,
        }
    }

    /// Puts it on a read.
    pub(crate) fn mark(self, request: &mut pb::Request) {
        let wire = match self {
            Consistency::Linearizable => Wire::Linearizable,
            Consistency::Lease => Wire::Lease,
            Consistency::Follower => Wire::Follower,
            Consistency::Stale(_) => Wire::Stale,
        };
        request.consistency = wire.into();
        request.staleness_ms_max = self.staleness_ms_max();
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Consistency::Linearizable => formatter.write_str("linearizable"),
            Consistency::Lease => formatter.write_str("lease"),
            Consistency::Follower => formatter.write_str("follower"),
            Consistency::Stale(_) => write!(formatter, "stale={}", self.staleness_ms_max()),
        }
    }
}

impl FromStr for Consistency {
    type Err = String;

    /// Parses what `Display` prints.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "linearizable" => return Ok(Consistency::Linearizable),
            "lease" => return Ok(Consistency::Lease),
            "follower" => return Ok(Consistency::Follower),
            _ => {}
        }
        let Some(bound) = text.strip_prefix("stale=") else {
            return Err(format!(
                "{text:?} is none of linearizable, lease, follower, stale=MILLISECONDS"
            ));
        };
        match bound.parse::<u64>() {
            Ok(0) => Err("stale=0: the bound is at least 1 millisecond".to_owned()),
            Ok(milliseconds) => Ok(Consistency::Stale(Duration::from_millis(milliseconds))),
            Err(_) => Err(format!("stale={bound}: a whole number of milliseconds is needed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_back_and_anything_else_refused() {
        for text in ["linearizable", "lease", "follower", "stale=1", "stale=2500"] {
            assert_eq!(text.parse::<Consistency>().unwrap().to_string(), text);
        }
        for bad in ["", "Lease", "stale", "stale=", "stale=0", "stale=-1", "stale=1s", "stale=0.5"]
        {
            assert!(bad.parse::<Consistency>().is_err(), "{bad}");
        }
    }
}
