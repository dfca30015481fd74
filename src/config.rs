//! The one optional file, `/etc/ec2-instance-connect/config.toml`.
//!
//! Its absence is the ordinary case and means the defaults. Anything else that keeps it from being read whole
//! refuses every key: an administrator who wrote a rule must never be served as if it were not there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use memchr::memchr_iter;
use serde::Deserialize;

use crate::access::Rules;
use crate::file::{self, FileError, Owner};
use crate::guards::Guards;
use crate::instance::InstanceId;
use crate::link::{self, Link};
use crate::options::Options;
use crate::place::{DnsSuffix, Partition};
use crate::reason::{Reason, Refusal};

/// Where the configuration is, unless the command line says otherwise.
pub const DEFAULT_PATH: &str = "/etc/ec2-instance-connect/config.toml";

/// Larger than any file a person writes.
const MAX_BYTES: u64 = 256 * 1024;

/// Bounds of a time in milliseconds that an administrator may set, and what holds without him.
pub(crate) struct TimeLimit {
    pub(crate) key: &'static str,
    pub(crate) default: u64,
    pub(crate) least: u64,
    pub(crate) most: u64,
}

/// The service answers within a few milliseconds; a second is a failure. Above five, sshd's clients give up.
const REQUEST_TIMEOUT: TimeLimit = TimeLimit {
    key: "request_timeout_ms",
    default: 1000,
    least: 100,
    most: 5000,
};

/// sshd's privileged monitor blocks while we run, and the client waits twice as long.
const TOTAL_TIMEOUT: TimeLimit = TimeLimit {
    key: "total_timeout_ms",
    default: 2500,
    least: 200,
    most: 10_000,
};

/// Everything that an administrator may decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[instance]`: what is known of the host.
    pub instance: Instance,
    /// `[imds]`: how the metadata service is asked.
    pub imds: Imds,
    /// `[trust]`: whom the signer must lead to.
    pub trust: Trust,
    /// `[keys]`: what a key is good for.
    pub keys: Keys,
    /// `[guards]`: logins that get no key, whoever pushed it.
    pub guards: Guards,
    /// `[[access]]`: who may, by the signed caller.
    pub access: Rules,
    /// `[options]`: what stands before a key that is given.
    pub options: Options,
    /// `[[chain]]`: other commands that are asked for keys, in order.
    pub chain: Vec<Link>,
    /// `[log]`: how much is said.
    pub log: Log,
    /// Whose files this configuration may name: those who may write it.
    pub owner: Owner,
}

/// `[instance]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Where sysfs is mounted.
    pub sysfs: PathBuf,
    /// The instance id, pinned: for Xen, where the host does not know it.
    pub id: Option<InstanceId>,
    /// The partition, pinned.
    pub partition: Option<Partition>,
}

/// `[imds]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imds {
    /// Where the service is.
    pub endpoint: Endpoint,
    /// The longest that one request may take.
    pub request_timeout: Duration,
    /// The longest that the whole decision may take.
    pub total_timeout: Duration,
}

/// `[imds] endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// 169.254.169.254, and fd00:ec2::254 where there is no route to it.
    Auto,
    /// 169.254.169.254 alone.
    Ipv4,
    /// fd00:ec2::254 alone.
    Ipv6,
    /// A literal address, for simulators and proxies of one's own.
    At(SocketAddr),
}

/// `[trust]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Which trust anchors are asked.
    pub anchors: Anchors,
    /// Whether each certificate of the path needs a staple.
    pub ocsp: OcspPolicy,
    /// DNS suffixes taken beside those of AWS's partitions.
    pub extra_domains: Vec<DnsSuffix>,
}

/// `[trust] anchors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchors {
    /// Amazon's roots, and outside partition `aws` then the system's store.
    Auto,
    /// Amazon's roots, built in.
    Amazon,
    /// The system's store.
    System,
    /// A PEM bundle.
    File(PathBuf),
}

/// `[trust] ocsp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OcspPolicy {
    /// A certificate without a good staple is a refusal.
    Require,
    /// A certificate without any staple is taken; one with a bad staple is not.
    IfPresent,
}

/// `[keys]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Whether a record's key is good for one connection alone ([`crate::claim`]).
    pub one_time: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// How much is said.
    pub level: Level,
}

/// `[log] level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Keys given, and refusals that a person would want explained.
    Info,
    /// Also every run that found no key, and what each decision rested on.
    Debug,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            instance: Instance {
                sysfs: PathBuf::from("/sys"),
                id: None,
                partition: None,
            },
            imds: Imds {
                endpoint: Endpoint::Auto,
                request_timeout: Duration::from_millis(REQUEST_TIMEOUT.default),
                total_timeout: Duration::from_millis(TOTAL_TIMEOUT.default),
            },
            trust: Trust {
                anchors: Anchors::Auto,
                ocsp: OcspPolicy::Require,
                extra_domains: Vec::new(),
            },
            keys: Keys { one_time: false },
            guards: Guards::default(),
            access: Rules::default(),
            options: Options::default(),
            chain: Vec::new(),
            log: Log { level: Level::Info },
            owner: Owner::Root,
        }
    }
}

impl Config {
    /// The configuration at [`DEFAULT_PATH`], or at `named` where the command line names one.
    ///
    /// The default file must be root's and may be absent. A file that was named must be there, and may also
    /// be the running user's own.
    ///
    /// # Errors
    /// [`Reason::Config`], with file, line and column where the text is wrong.
    pub fn load(named: Option<&Path>) -> Result<Self, Refusal> {
        let (path, owner) = match named {
            Some(path) => (path, Owner::RootOrSelf),
            None => (Path::new(DEFAULT_PATH), Owner::Root),
        };
        match Self::read(path, owner) {
            Err(ReadError::File(FileError::NotFound)) if named.is_none() => Ok(Self::default()),
            Err(error) => {
                let detail = match error {
                    ReadError::File(error) => format!("{}: {error}", path.display()),
                    ReadError::Text(error) => format!("{}:{error}", path.display()),
                };
                Err(Refusal::new(Reason::Config, detail))
            }
            Ok(config) => Ok(config),
        }
    }

    /// The configuration at `path`, a file of `owner`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn read(path: &Path, owner: Owner) -> Result<Self, ReadError> {
        let content = file::read_trusted(path, owner, MAX_BYTES).map_err(ReadError::File)?;
        let text = std::str::from_utf8(&content).map_err(|error| {
            let sound = content.get(..error.valid_up_to()).unwrap_or_default();
            ReadError::Text(ConfigError {
                position: std::str::from_utf8(sound)
                    .ok()
                    .map(|sound| position(sound, sound.len())),
                message: "is not UTF-8".to_owned(),
            })
        })?;
        let config = Self::parse(text).map_err(ReadError::Text)?;
        Ok(Self { owner, ..config })
    }

    /// The configuration that `text` holds.
    ///
    /// # Errors
    /// Where and why, for people.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let short = statements(text).and_then(|short| toml::from_str(&short).ok());
        if let Some(document) = short {
            return Ok(Document::into_config(document));
        }
        let document: Document = toml::from_str(text).map_err(|error| ConfigError {
            position: error.span().map(|span| position(text, span.start)),
            message: error.message().trim_end().replace('\n', " "),
        })?;
        Ok(document.into_config())
    }
}

/// Why a file gave no configuration.
#[derive(Debug)]
pub enum ReadError {
    /// The file cannot be used.
    File(FileError),
    /// Its text is wrong.
    Text(ConfigError),
}

/// What is wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Line and column, from 1; the column counts characters.
    pub position: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.position {
            Some((line, column)) => write!(f, "{line}:{column}: {}", self.message),
            None => write!(f, " {}", self.message),
        }
    }
}

/// The lines that are no comments: the file that the packages bring is nearly all comments, and to read those as TOML takes
/// as long as the network part of a login without a key. `None` where a line that looks like a comment may be none, which
/// takes a string of several lines, or where something is in the file that TOML 1.0 does not allow there (control
/// characters, but for tabs; lines that end in a carriage return are read as they are, too).
fn statements(text: &str) -> Option<String> {
    if has_controls(text) {
        return None;
    }
    // No comment can begin such a string, so the first one would stand in another line.
    let opens_string = |three: &[u8]| matches!(three, b"\"\"\"" | b"'''");
    let mut short = String::new();
    let mut start = 0;
    for end in memchr_iter(b'\n', text.as_bytes()).chain([text.len()]) {
        let line = text.get(start..end)?;
        start = end.saturating_add(1);
        let first = line.bytes().find(|byte| !matches!(byte, b' ' | b'\t'));
        // A comment, or an empty line.
        if matches!(first, None | Some(b'#')) {
            continue;
        }
        if line.as_bytes().windows(3).any(opens_string) {
            return None;
        }
        short.push_str(line);
        short.push('\n');
    }
    Some(short)
}

/// Whether there is what TOML forbids in a comment, or a carriage return. To the end in any case: the compiler then takes
/// many bytes at once.
fn has_controls(text: &str) -> bool {
    let forbidden = |byte: u8| (byte != b'\t') & (byte != b'\n') & byte.is_ascii_control();
    text.bytes().fold(false, |found, byte| found | forbidden(byte))
}

/// Line and column (both from 1) of the byte at `offset`.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline.saturating_add(1));
    let line = before.matches('\n').count().saturating_add(1);
    let column = before
        .get(line_start..)
        .unwrap_or_default()
        .chars()
        .count()
        .saturating_add(1);
    (line, column)
}

/// The file's form. Each value becomes a typed one while it is read, so that an error carries its position.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    instance: InstanceTable,
    imds: ImdsTable,
    trust: TrustTable,
    keys: KeysTable,
    guards: Guards,
    access: Rules,
    options: Options,
    #[serde(deserialize_with = "link::from_tables")]
    chain: Vec<Link>,
    log: LogTable,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InstanceTable {
    #[serde(deserialize_with = "absolute_path")]
    sysfs: Option<PathBuf>,
    #[serde(deserialize_with = "instance_id")]
    id: Option<InstanceId>,
    #[serde(deserialize_with = "partition")]
    partition: Option<Partition>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ImdsTable {
    #[serde(deserialize_with = "endpoint")]
    endpoint: Option<Endpoint>,
    #[serde(deserialize_with = "request_timeout")]
    request_timeout_ms: Option<Duration>,
    #[serde(deserialize_with = "total_timeout")]
    total_timeout_ms: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrustTable {
    #[serde(deserialize_with = "anchors")]
    anchors: Option<Anchors>,
    ocsp: Option<OcspPolicy>,
    #[serde(deserialize_with = "domains")]
    extra_domains: Vec<DnsSuffix>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeysTable {
    one_time: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogTable {
    level: Option<Level>,
}

impl Document {
    fn into_config(self) -> Config {
        let default = Config::default();
        Config {
            instance: Instance {
                sysfs: self.instance.sysfs.unwrap_or(default.instance.sysfs),
                id: self.instance.id,
                partition: self.instance.partition,
            },
            imds: Imds {
                endpoint: self.imds.endpoint.unwrap_or(default.imds.endpoint),
                request_timeout: self
                    .imds
                    .request_timeout_ms
                    .unwrap_or(default.imds.request_timeout),
                total_timeout: self.imds.total_timeout_ms.unwrap_or(default.imds.total_timeout),
            },
            trust: Trust {
                anchors: self.trust.anchors.unwrap_or(default.trust.anchors),
                ocsp: self.trust.ocsp.unwrap_or(default.trust.ocsp),
                extra_domains: self.trust.extra_domains,
            },
            keys: Keys {
                one_time: self.keys.one_time.unwrap_or(default.keys.one_time),
            },
            guards: self.guards,
            access: self.access,
            options: self.options,
            chain: self.chain,
            log: Log {
                level: self.log.level.unwrap_or(default.log.level),
            },
            owner: default.owner,
        }
    }
}

/// Reads a string and makes of it what `convert` makes; `expected` says what would have been right.
fn typed<'de, D, T>(source: D, convert: impl Fn(&str) -> Option<T>, expected: &str) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let text = String::deserialize(source)?;
    convert(&text).ok_or_else(|| serde::de::Error::custom(format!("expected {expected}")))
}

fn absolute_path<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<PathBuf>, D::Error> {
    typed(source, absolute, "an absolute path").map(Some)
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = PathBuf::from(text);
    path.is_absolute().then_some(path)
}

fn instance_id<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<InstanceId>, D::Error> {
    typed(
        source,
        InstanceId::new,
        "an instance id such as \"i-0123456789abcdef0\"",
    )
    .map(Some)
}

fn partition<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Partition>, D::Error> {
    typed(
        source,
        Partition::from_name,
        "a partition such as \"aws\", \"aws-cn\" or \"aws-us-gov\"",
    )
    .map(Some)
}

fn endpoint<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Endpoint>, D::Error> {
    let convert = |text: &str| match text {
        "auto" => Some(Endpoint::Auto),
        "ipv4" => Some(Endpoint::Ipv4),
        "ipv6" => Some(Endpoint::Ipv6),
        url => url.strip_prefix("http://")?.parse().ok().map(Endpoint::At),
    };
    typed(
        source,
        convert,
        "\"auto\", \"ipv4\", \"ipv6\" or \"http://ADDRESS:PORT\" with a literal address",
    )
    .map(Some)
}

fn anchors<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Anchors>, D::Error> {
    let convert = |text: &str| match text {
        "auto" => Some(Anchors::Auto),
        "amazon" => Some(Anchors::Amazon),
        "system" => Some(Anchors::System),
        path => absolute(path).map(Anchors::File),
    };
    typed(
        source,
        convert,
        "\"auto\", \"amazon\", \"system\" or the absolute path of a PEM bundle",
    )
    .map(Some)
}

fn domains<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Vec<DnsSuffix>, D::Error> {
    let names = Vec::<String>::deserialize(source)?;
    let wrong =
        |name: &String| serde::de::Error::custom(format!("\"{name}\" is not a lower-case domain name"));
    names
        .iter()
        .map(|name| DnsSuffix::new(name).ok_or_else(|| wrong(name)))
        .collect()
}

fn request_timeout<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    milliseconds(source, &REQUEST_TIMEOUT)
}

fn total_timeout<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Option<Duration>, D::Error> {
    milliseconds(source, &TOTAL_TIMEOUT)
}

/// A time within its bounds.
pub(crate) fn milliseconds<'de, D>(source: D, limit: &TimeLimit) -> Result<Option<Duration>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let value = u64::deserialize(source)?;
    if (limit.least..=limit.most).contains(&value) {
        Ok(Some(Duration::from_millis(value)))
    } else {
        let TimeLimit { key, least, most, .. } = limit;
        Err(serde::de::Error::custom(format!(
            "{key} must lie between {least} and {most}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> ConfigError {
        Config::parse(text).unwrap_err()
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn comments_mean_nothing_unless_toml_forbids_their_characters() {
        for sound in ["#", " \t# a\tb\r\n\n#\u{e9}\n", "\n\n", "  "] {
            assert_eq!(Config::parse(sound).unwrap(), Config::default(), "{sound:?}");
        }
        let lines = ["# a", "", "[log]", " \t# level = 7", "level = \"debug\" # b"];
        for end in ["\n", "\r\n"] {
            let text = lines.map(|line| format!("{line}{end}")).concat();
            for text in [text.as_str(), text.trim_end()] {
                assert_eq!(Config::parse(text).unwrap().log.level, Level::Debug, "{text:?}");
            }
        }
        for (wrong, position) in [
            ("# a\n# b\u{7}\n", (2, 4)),
            ("#\0\n", (1, 2)),
            ("#\u{7f}\n", (1, 2)),
        ] {
            assert_eq!(error(wrong).position, Some(position), "{wrong:?}");
        }
        // Not a comment, and not a path.
        let wrong = error("[instance]\nsysfs = \"\"\"\n# b\n\"\"\"\n");
        assert_eq!(wrong.position.map(|(line, _)| line), Some(2), "{wrong}");
    }

    /// The packages' file, with every commented-out setting in force.
    fn shipped(uncomment: bool) -> String {
        let setting = |line: &str| {
            line.starts_with("#[[")
                || (line.starts_with('#') && line.contains(" = ") && !line.starts_with("# "))
        };
        let shipped = include_str!("../packaging/config.toml");
        let line = |line: &str| {
            if uncomment && setting(line) {
                line.trim_start_matches('#').to_owned()
            } else {
                line.to_owned()
            }
        };
        shipped.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_shipped_file_means_the_defaults_and_shows_them() {
        assert_eq!(Config::parse(&shipped(false)).unwrap(), Config::default());
        let mut shown = Config::parse(&shipped(true)).unwrap();
        // Those that have no default show an example.
        let link = shown.chain.pop().unwrap();
        assert_eq!(
            (link.when, link.timeout),
            (link::When::Always, Duration::from_secs(1))
        );
        assert!(shown.instance.id.take().is_some());
        assert!(shown.instance.partition.take().is_some());
        assert!(shown.guards.maintenance_file.take().is_some());
        assert!(!std::mem::take(&mut shown.guards.maintenance_users).is_empty());
        assert_eq!(std::mem::take(&mut shown.access).0.len(), 1);
        assert_eq!(shown, Config::default());
    }

    /// The keys of a table, or of the first of several of one name.
    fn keys(value: &toml::Value) -> impl Iterator<Item = &str> {
        let table = value.as_array().map_or(value, |tables| &tables[0]);
        table.as_table().unwrap().keys().map(String::as_str)
    }

    #[test]
    fn the_shipped_file_shows_every_key() {
        let shown = shipped(true);
        let table: toml::Table = toml::from_str(&shown).unwrap();
        let keys: Vec<String> = table
            .iter()
            .flat_map(|(name, table)| keys(table).map(move |key| format!("{name}.{key}")))
            .collect();
        let error = error("[instance]\nx = 1").to_string()
            + &error("[imds]\nx = 1").to_string()
            + &error("[trust]\nx = 1").to_string()
            + &error("[keys]\nx = 1").to_string()
            + &error("[guards]\nx = 1").to_string()
            + &error("[[access]]\nx = 1").to_string()
            + &error("[options]\nx = 1").to_string()
            + &error("[[chain]]\nx = 1").to_string()
            + &error("[log]\nx = 1").to_string()
            + &error("[x]").to_string();
        // serde's message for an unknown key lists all that it knows.
        let known: Vec<&str> = error
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| *name != "x")
            .collect();
        for name in &known {
            assert!(shown.contains(name), "{name} is not in packaging/config.toml");
        }
        assert_eq!(known.len(), keys.len() + table.len(), "{known:?} {keys:?}");
    }

    #[test]
    fn the_manual_page_has_every_key_and_no_other() {
        let manual = include_str!("../packaging/man/ec2-instance-connect.toml.5");
        let documented: Vec<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix(".BI "))
            .filter_map(|line| line.split(' ').next())
            .collect();
        let documented: Vec<&str> = documented.into_iter().filter(|key| !key.contains('/')).collect();
        let table: toml::Table = toml::from_str(&shipped(true)).unwrap();
        let mut keys: Vec<&str> = table.values().flat_map(keys).collect();
        let mut documented = documented;
        keys.sort_unstable();
        documented.sort_unstable();
        assert_eq!(documented, keys);
    }

    #[test]
    fn every_key_is_taken() {
        let config = Config::parse(
            r#"
            [instance]
            sysfs = "/srv/sys"
            id = "i-0123456789abcdef0"
            partition = "aws-us-gov"
            [imds]
            endpoint = "http://[fd00::1]:8080"
            request_timeout_ms = 500
            total_timeout_ms = 3000
            [trust]
            anchors = "/etc/ec2-instance-connect/anchors.pem"
            ocsp = "if-present"
            extra_domains = ["cloud.example"]
            [keys]
            one_time = true
            [log]
            level = "debug"
            "#,
        )
        .unwrap();
        assert_eq!(config.instance.sysfs, Path::new("/srv/sys"));
        assert_eq!(config.instance.id, InstanceId::new("i-0123456789abcdef0"));
        assert_eq!(config.instance.partition, Some(Partition::UsGov));
        assert_eq!(
            config.imds.endpoint,
            Endpoint::At("[fd00::1]:8080".parse().unwrap())
        );
        assert_eq!(config.imds.request_timeout, Duration::from_millis(500));
        assert_eq!(config.imds.total_timeout, Duration::from_secs(3));
        assert_eq!(
            config.trust.anchors,
            Anchors::File("/etc/ec2-instance-connect/anchors.pem".into())
        );
        assert_eq!(config.trust.ocsp, OcspPolicy::IfPresent);
        assert_eq!(
            config.trust.extra_domains,
            [DnsSuffix::new("cloud.example").unwrap()]
        );
        assert!(config.keys.one_time);
        assert_eq!(config.log.level, Level::Debug);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, word) in [
            ("[trust]\nocps = \"require\"\n", 2, "ocps"),
            ("\n[trusts]\n", 2, "trusts"),
            ("[trust]\n\nocsp = \"maybe\"\n", 3, "maybe"),
            (
                "[imds]\nendpoint = \"http://metadata.example\"\n",
                2,
                "literal address",
            ),
            ("[imds]\nendpoint = \"https://127.0.0.1:80\"\n", 2, "http://"),
            ("[imds]\nrequest_timeout_ms = 99\n", 2, "between 100 and 5000"),
            ("[imds]\ntotal_timeout_ms = 10001\n", 2, "between 200 and 10000"),
            ("[imds]\ntotal_timeout_ms = -1\n", 2, "-1"),
            ("[instance]\nid = \"i-xyz\"\n", 2, "instance id"),
            ("[instance]\nsysfs = \"sys\"\n", 2, "absolute"),
            ("[instance]\npartition = \"aws-mars\"\n", 2, "partition"),
            ("[trust]\nanchors = \"none\"\n", 2, "absolute path"),
            ("[trust]\nextra_domains = [\"Example.com\"]\n", 2, "Example.com"),
            ("[keys]\none_time = \"yes\"\n", 2, "boolean"),
            (
                "[guards]\ndeny_users = ['a', 'b c']\n",
                2,
                "\"b c\" is not a login name",
            ),
            ("[guards]\nmaintenance_file = 'x'\n", 2, "absolute"),
            ("[[access]]\n[[access]]\neffect = 'allow'\n", 1, "effect"),
            ("[[access]]\neffect = 'maybe'\n", 2, "maybe"),
            ("[[access]]\neffect = 'deny'\nusers = []\n", 3, "at least one"),
            ("[[access]]\neffect = 'deny'\nuser = ['a']\n", 3, "user"),
            (
                "[[access]]\neffect = 'deny'\naccounts = ['1']\n",
                3,
                "twelve digits",
            ),
            (
                "[[access]]\neffect = 'deny'\nprincipals = ['arn:aws:iam::123456789012:user/a', '*']\n",
                3,
                "\"*\" is not a principal's ARN",
            ),
            (
                "[[access]]\neffect = 'deny'\nfrom = ['10.0.0.1/8']\n",
                3,
                "10.0.0.0/8",
            ),
            ("[access]\neffect = 'deny'\n", 1, ""),
            ("[options]\npermit = ['pty']\n", 1, "restrict = true"),
            ("[log]\nlevel = info\n", 2, ""),
            ("[log]\nlevel = \"info\"\nlevel = \"info\"\n", 3, "duplicate"),
            ("[log\n", 1, ""),
        ] {
            let error = error(text);
            assert_eq!(
                error.position.map(|(line, _)| line),
                Some(line),
                "{text}: {error}"
            );
            assert!(error.message.contains(word), "{text}: {error}");
            assert!(!error.message.contains('\n'));
        }
    }

    #[test]
    fn a_named_file_that_is_absent_refuses_and_the_default_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = Config::load(Some(&dir.path().join("none.toml"))).unwrap_err();
        assert_eq!(refusal.reason, Reason::Config);
        let refusal = Config::load(Some(dir.path())).unwrap_err();
        assert_eq!(refusal.reason, Reason::Config);
    }
}
