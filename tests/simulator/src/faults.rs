//! Misbehaviour on request: which requests it strikes and what happens to them.

use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Which paths a fault strikes, compared as the bytes of the request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Paths {
    /// This path alone.
    Exact(String),
    /// Every path that starts so.
    Prefix(String),
}

/// What happens to a request. All but `Delay` and `Header` take the answer's place or shape it, so only
/// the first of them that strikes is used; delays add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// This status, with a page as the service writes it.
    Status(u16),
    /// Answer so many milliseconds later.
    Delay(u64),
    /// Send the body `bytes` at a time with `every_ms` between.
    Drip {
        /// Bytes at a time.
        bytes: usize,
        /// Milliseconds between.
        every_ms: u64,
    },
    /// Announce the whole body and close after so many bytes of it.
    Truncate(usize),
    /// Send a body that never ends.
    Endless,
    /// Send the true answer with a header of so many bytes.
    HugeHeader(usize),
    /// Send the true answer with another header.
    Header(String, String),
    /// Reset the TCP connection.
    Reset,
    /// Close the connection without an answer.
    Close,
    /// Never answer, keep the connection.
    Stall,
    /// 302 to this place.
    Redirect(String),
    /// 200 with this body.
    Body(String),
    /// 200 with these bytes.
    Bytes(Vec<u8>),
    /// 503 to what comes faster than so many requests in a second, after so many at once: the service's own throttling,
    /// of which no figures are published.
    Throttle {
        /// Requests in a second.
        per_second: u32,
        /// Requests at once.
        burst: u32,
    },
    /// The AWS API alone: this exception, such as `ThrottlingException`.
    Exception(String),
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Only requests of this method, such as `PUT`.
    #[serde(default)]
    pub method: Option<String>,
    /// Only requests for these paths.
    pub paths: Paths,
    /// Leave the first so many of them alone.
    #[serde(default)]
    pub skip: u32,
    /// Strike so many, then no more.
    #[serde(default)]
    pub times: Option<u32>,
    /// What to do to them.
    pub effect: Effect,
}

impl Fault {
    /// Strikes every request for `path`.
    pub fn on(path: &str, effect: Effect) -> Self {
        Self {
            method: None,
            paths: Paths::Exact(path.to_owned()),
            skip: 0,
            times: None,
            effect,
        }
    }

    /// Strikes every request for a path that starts with `prefix`.
    pub fn under(prefix: &str, effect: Effect) -> Self {
        Self {
            paths: Paths::Prefix(prefix.to_owned()),
            ..Self::on("", effect)
        }
    }

    /// Strikes only `method`.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Strikes only the first `times`.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Leaves the first `skip` alone.
    #[must_use]
    pub fn skip(mut self, skip: u32) -> Self {
        self.skip = skip;
        self
    }
}

/// The installed faults, with what they have seen so far.
#[derive(Default)]
pub(crate) struct Faults(Vec<Installed>);

struct Installed {
    fault: Fault,
    seen: u32,
    /// What a [`Effect::Throttle`] still lets pass at once, as of when.
    left: f64,
    since: Instant,
}

impl Faults {
    pub(crate) fn install(&mut self, fault: Fault) {
        let left = match fault.effect {
            Effect::Throttle { burst, .. } => f64::from(burst),
            _ => 0.0,
        };
        self.0.push(Installed {
            fault,
            seen: 0,
            left,
            since: Instant::now(),
        });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The effects on this request, in order of installation.
    pub(crate) fn strike(&mut self, method: &str, path: &str) -> Vec<Effect> {
        self.0
            .iter_mut()
            .filter_map(|installed| installed.strike(method, path, Instant::now()))
            .collect()
    }
}

impl Installed {
    fn strike(&mut self, method: &str, path: &str, now: Instant) -> Option<Effect> {
        let fault = &self.fault;
        let path_matches = match &fault.paths {
            Paths::Exact(exact) => path == exact,
            Paths::Prefix(prefix) => path.starts_with(prefix),
        };
        if !path_matches || fault.method.as_deref().is_some_and(|m| m != method) {
            return None;
        }
        let number = self.seen;
        self.seen = self.seen.saturating_add(1);
        if number < fault.skip || fault.times.is_some_and(|n| number - fault.skip >= n) {
            return None;
        }
        match fault.effect {
            Effect::Throttle { per_second, burst } => {
                let gained = now.saturating_duration_since(self.since).as_secs_f64() * f64::from(per_second);
                self.since = now;
                self.left = f64::from(burst).min(self.left + gained);
                if self.left >= 1.0 {
                    self.left -= 1.0;
                    return None;
                }
                Some(Effect::Status(503))
            }
            ref effect => Some(effect.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skip_and_times_count_matching_requests_only() {
        let mut faults = Faults::default();
        faults.install(
            Fault::on("/a", Effect::Status(503))
                .method("GET")
                .skip(1)
                .times(2),
        );
        assert!(faults.strike("PUT", "/a").is_empty());
        assert!(faults.strike("GET", "/b").is_empty());
        let struck: Vec<bool> = (0..5).map(|_| !faults.strike("GET", "/a").is_empty()).collect();
        assert_eq!(struck, [false, true, true, false, false]);
    }

    #[test]
    fn throttle_lets_a_burst_pass_and_then_its_rate() {
        let throttle = Effect::Throttle {
            per_second: 10,
            burst: 3,
        };
        let mut faults = Faults::default();
        faults.install(Fault::under("/", throttle));
        let begun = faults.0[0].since;
        let mut at = |ms| faults.0[0].strike("GET", "/", begun + std::time::Duration::from_millis(ms));
        let struck: Vec<bool> = [0, 0, 0, 0, 50, 110, 120, 1000, 1000, 1000, 1000]
            .map(|ms| at(ms) == Some(Effect::Status(503)))
            .to_vec();
        assert_eq!(
            struck,
            [
                false, false, false, true, true, false, true, false, false, false, true
            ]
        );
    }

    #[test]
    fn faults_are_written_as_plain_json() {
        let fault: Fault = serde_json::from_str(
            r#"{"paths":{"prefix":"/latest/"},"effect":{"drip":{"bytes":1,"every_ms":5}}}"#,
        )
        .expect("a fault");
        assert_eq!(
            fault,
            Fault::under(
                "/latest/",
                Effect::Drip {
                    bytes: 1,
                    every_ms: 5
                }
            )
        );
    }
}
