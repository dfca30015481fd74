//! The helper's command line, and its contract with sshd: exit 0 whatever was decided, 2 for wrong usage.
//!
//! sshd throws away what a command printed that ends in any other way, so "no key" and "refused" are an empty
//! output, and why is in the log.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::access::connection::{Connection, Origin};
use crate::audit::{self, Log};
use crate::authorize::{Decision, authorize};
use crate::config::{Config, Level};
use crate::output;
use crate::request::Request;

/// Wrong usage: sshd's configuration is wrong, not the login.
const USAGE: u8 = 2;

/// Backstop for the case that the process itself hangs (a stalled file system below its files): the kernel ends
/// it this many seconds after it began, and sshd discards what it printed. Twice the longest deadline that can
/// be configured, so that it never ends a decision that is merely slow.
const ALARM_SECONDS: u32 = 20;

const HELP: &str = "\
Usage: eic_run_authorized_keys [OPTION VALUE]... USER [FINGERPRINT]
Prints the keys that EC2 Instance Connect holds for USER, for sshd's AuthorizedKeysCommand.

  USER           login name (sshd's %u)
  FINGERPRINT    print only this key: SHA256:... or MD5:... (sshd's %f)
  --config FILE  read FILE, not /etc/ec2-instance-connect/config.toml
  --connection WORDS
                 both ends of the connection, in one argument (sshd's %C, from OpenSSH 9.4 on), for access rules
                 that name networks
  --help         print this text; alone only
  --version      print the version; alone only

Exits with 0 whether or not there is a key, and with 2 for wrong usage. Why a key was refused is in the
system's log, facility authpriv, identifier ec2-instance-connect.
";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Invocation {
    Help,
    Version,
    Login(Words),
}

/// sshd's words for one login.
#[derive(Debug, Default, PartialEq, Eq)]
struct Words {
    config: Option<PathBuf>,
    connection: Option<String>,
    user: String,
    fingerprint: Option<String>,
}

impl Words {
    fn origin(&self) -> Origin {
        let connection = self.connection.as_deref().and_then(Connection::parse);
        connection.map_or(Origin::Unknown, Origin::Connection)
    }
}

/// Runs the helper on its arguments, without the program's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    nix::unistd::alarm::set(ALARM_SECONDS);
    match parse(arguments.collect()) {
        Some(Invocation::Help) => tell(HELP),
        Some(Invocation::Version) => tell(concat!(
            "eic_run_authorized_keys ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )),
        Some(Invocation::Login(words)) => {
            let origin = words.origin();
            let (user, fingerprint) = (words.user, words.fingerprint);
            let config = Config::load(words.config.as_deref());
            let level = config.as_ref().map_or(Level::Info, |config| config.log.level);
            let mut log = Log::default();
            let decision = Request::new(&user, fingerprint.as_deref())
                .map(|request| request.coming_from(origin))
                .and_then(|request| config.map(|config| authorize(&request, &config, &mut log)))
                .unwrap_or_else(Decision::refused);
            audit::report(&mut log, &user, fingerprint.as_deref(), &decision, level);
            // Nothing can be done about a lost pipe, and nothing was given away.
            let _ = output::print(&decision.keys);
            ExitCode::SUCCESS
        }
        None => {
            let _ = io::stderr().write_all(HELP.as_bytes());
            ExitCode::from(USAGE)
        }
    }
}

/// Options come first, each with its value, and are taken only while more than two words are left: the last two
/// are sshd's, and no login name that sshd puts there may become an option. `None` is wrong usage.
fn parse(arguments: Vec<OsString>) -> Option<Invocation> {
    // What is not UTF-8 becomes a name of no shape that has a key.
    let words: Vec<String> = arguments
        .into_iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--help" | "-h"] => Some(Invocation::Help),
        ["--version" | "-V"] => Some(Invocation::Version),
        words => login(words).map(Invocation::Login),
    }
}

fn login(mut words: &[&str]) -> Option<Words> {
    let mut login = Words::default();
    while let [option, value, _, ..] = words {
        match *option {
            "--config" if login.config.is_none() => login.config = Some(PathBuf::from(value)),
            "--connection" if login.connection.is_none() => login.connection = Some((*value).to_owned()),
            _ => return None,
        }
        words = words.get(2..)?;
    }
    let (user, fingerprint) = match words {
        [user] => (user, None),
        [user, fingerprint] => (user, Some(fingerprint)),
        _ => return None,
    };
    login.user = (*user).to_owned();
    login.fingerprint = fingerprint.map(|&fingerprint| fingerprint.to_owned());
    Some(login)
}

fn tell(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Option<Invocation> {
        parse(words.iter().map(OsString::from).collect())
    }

    fn login(config: Option<&str>, user: &str, fingerprint: Option<&str>) -> Option<Invocation> {
        Some(Invocation::Login(Words {
            config: config.map(PathBuf::from),
            user: user.to_owned(),
            fingerprint: fingerprint.map(str::to_owned),
            ..Words::default()
        }))
    }

    #[test]
    fn the_connection_is_one_word_before_the_user() {
        let words = Words {
            config: Some(PathBuf::from("c")),
            connection: Some("10.0.0.1 22 192.0.2.9 40000".to_owned()),
            user: "a".to_owned(),
            fingerprint: Some("f".to_owned()),
        };
        assert!(matches!(words.origin(), Origin::Connection(_)));
        let parsed = parsed(&[
            "--connection",
            "10.0.0.1 22 192.0.2.9 40000",
            "--config",
            "c",
            "a",
            "f",
        ]);
        assert_eq!(parsed, Some(Invocation::Login(words)));
        let odd = Words {
            connection: Some("%C".to_owned()),
            ..Words::default()
        };
        assert_eq!(odd.origin(), Origin::Unknown);
    }

    #[test]
    fn sshds_words_are_user_and_fingerprint() {
        assert_eq!(parsed(&["a"]), login(None, "a", None));
        assert_eq!(parsed(&["a", "f"]), login(None, "a", Some("f")));
        assert_eq!(
            parsed(&["--config", "c", "a", "f"]),
            login(Some("c"), "a", Some("f"))
        );
        assert_eq!(parsed(&["--config", "c", "a"]), login(Some("c"), "a", None));
    }

    #[test]
    fn a_login_name_never_becomes_an_option() {
        assert_eq!(parsed(&["--help", "f"]), login(None, "--help", Some("f")));
        assert_eq!(parsed(&["--config", "f"]), login(None, "--config", Some("f")));
        assert_eq!(
            parsed(&["--config=/x", "f"]),
            login(None, "--config=/x", Some("f"))
        );
        assert_eq!(
            parsed(&["--config", "/etc/c", "--help", "f"]),
            login(Some("/etc/c"), "--help", Some("f"))
        );
        assert_eq!(
            parsed(&["--config", "c", "--config", "f"]),
            login(Some("c"), "--config", Some("f"))
        );
    }

    #[test]
    fn too_few_and_too_many_words_are_wrong_usage() {
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&["a", "f", "x"]), None);
        assert_eq!(parsed(&["--config", "c", "--config", "d", "a"]), None);
        assert_eq!(parsed(&["--config", "c", "a", "f", "x"]), None);
    }
}
