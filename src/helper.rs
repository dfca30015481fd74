//! The helper's command line, and its contract with sshd: exit 0 whatever was decided, 2 for wrong usage.
//!
//! sshd throws away what a command printed that ends in any other way, so "no key" and "refused" are an empty
//! output, and why is in the log.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::audit::{self, Log};
use crate::authorize::{Decision, authorize};
use crate::config::{Config, Level};
use crate::link::keeper;
use crate::output;
use crate::request::Words;

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
  --home DIR     the home directory (sshd's %h), --key KEY the offered key (%k), --type TYPE its type (%t):
                 for the links of the configuration that ask for them
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
    Login { config: Option<PathBuf>, words: Words },
}

/// Runs the helper on its arguments, without the program's name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    if let Some(ended) = keeper::asked(arguments.iter().cloned()) {
        return ended;
    }
    nix::unistd::alarm::set(ALARM_SECONDS);
    match parse(&arguments) {
        Some(Invocation::Help) => tell(HELP),
        Some(Invocation::Version) => tell(concat!(
            "eic_run_authorized_keys ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )),
        Some(Invocation::Login { config, words }) => {
            let config = Config::load(config.as_deref());
            let level = config.as_ref().map_or(Level::Info, |config| config.log.level);
            let (user, fingerprint) = (words.user(), words.fingerprint());
            let mut log = Log::default();
            let decision = match config {
                Ok(config) => authorize(&words, &config, &mut log),
                // What sshd asks comes first, then what the administrator wrote.
                Err(wrong) => Decision::refused(words.request().err().unwrap_or(wrong)),
            };
            audit::report(&mut log, &user, fingerprint.as_deref(), &decision, level);
            let lines = decision.links.iter().filter_map(|link| link.lines.as_ref().ok());
            // Nothing can be done about a lost pipe, and nothing was given away.
            let _ = output::print(&decision.keys, lines);
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
fn parse(arguments: &[OsString]) -> Option<Invocation> {
    match arguments {
        [alone] if alone == "--help" || alone == "-h" => Some(Invocation::Help),
        [alone] if alone == "--version" || alone == "-V" => Some(Invocation::Version),
        arguments => login(arguments),
    }
}

fn login(mut arguments: &[OsString]) -> Option<Invocation> {
    let mut config = None;
    let mut words = Words::default();
    while let [option, value, _, ..] = arguments {
        let place = match option.to_str()? {
            "--config" => &mut config,
            "--connection" => &mut words.connection,
            "--home" => &mut words.home,
            "--key" => &mut words.key,
            "--type" => &mut words.key_type,
            _ => return None,
        };
        if place.replace(value.clone()).is_some() {
            return None;
        }
        arguments = arguments.get(2..)?;
    }
    (words.user, words.fingerprint) = match arguments {
        [user] => (user.clone(), None),
        [user, fingerprint] => (user.clone(), Some(fingerprint.clone())),
        _ => return None,
    };
    Some(Invocation::Login {
        config: config.map(PathBuf::from),
        words,
    })
}

fn tell(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Option<Invocation> {
        parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
    }

    fn login(config: Option<&str>, user: &str, fingerprint: Option<&str>) -> Option<Invocation> {
        Some(Invocation::Login {
            config: config.map(PathBuf::from),
            words: Words {
                user: user.into(),
                fingerprint: fingerprint.map(OsString::from),
                ..Words::default()
            },
        })
    }

    #[test]
    fn the_connection_is_one_word_before_the_user() {
        let words = Words {
            connection: Some("10.0.0.1 22 192.0.2.9 40000".into()),
            user: "a".into(),
            fingerprint: Some("f".into()),
            ..Words::default()
        };
        let parsed = parsed(&[
            "--connection",
            "10.0.0.1 22 192.0.2.9 40000",
            "--config",
            "c",
            "a",
            "f",
        ]);
        let config = Some(PathBuf::from("c"));
        assert_eq!(parsed, Some(Invocation::Login { config, words }));
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
    fn sshds_tokens_are_taken_each_once_and_as_they_are() {
        let words = Words {
            user: "a".into(),
            fingerprint: Some("f".into()),
            home: Some("/home/a b".into()),
            key: Some("AAAA".into()),
            key_type: Some("ssh-rsa".into()),
            ..Words::default()
        };
        let all = [
            "--home",
            "/home/a b",
            "--key",
            "AAAA",
            "--type",
            "ssh-rsa",
            "a",
            "f",
        ];
        assert_eq!(parsed(&all), Some(Invocation::Login { config: None, words }));
        assert_eq!(parsed(&["--home", "/a", "--home", "/b", "a", "f"]), None);
        assert_eq!(
            parsed(&["--home", "--key", "--key", "f"]),
            login_at("--key", "--key", "f")
        );
    }

    fn login_at(home: &str, user: &str, fingerprint: &str) -> Option<Invocation> {
        Some(Invocation::Login {
            config: None,
            words: Words {
                user: user.into(),
                fingerprint: Some(fingerprint.into()),
                home: Some(home.into()),
                ..Words::default()
            },
        })
    }

    #[test]
    fn too_few_and_too_many_words_are_wrong_usage() {
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&["a", "f", "x"]), None);
        assert_eq!(parsed(&["--config", "c", "--config", "d", "a"]), None);
        assert_eq!(parsed(&["--config", "c", "a", "f", "x"]), None);
    }
}
