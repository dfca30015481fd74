//! The Prometheus textfile (text exposition format 0.0.4), written so that a reader sees the old one or the new one.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::reason::Reason;

/// What all names begin with.
const PREFIX: &str = "ec2_instance_connect_selftest";

/// Readable by the node exporter, whoever that runs as: there is no secret in it.
const MODE: u32 = 0o644;

/// One selftest, in numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Metrics {
    pub(super) success: bool,
    pub(super) success_ahead: bool,
    /// Why not, of now.
    pub(super) reason: Option<Reason>,
    pub(super) signer_seconds: Option<i64>,
    pub(super) staple_seconds: Option<i64>,
    pub(super) clock_ahead: Option<i64>,
    pub(super) requests: u32,
    pub(super) seconds: f64,
    /// Unix seconds.
    pub(super) at: i64,
}

impl Metrics {
    /// The text.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
        let some = |value: Option<i64>| value.map(|value| value.to_string());
        for (name, help, value) in [
            (
                "success",
                "Whether a login would get its key now.",
                Some(flag(self.success)),
            ),
            (
                "success_ahead",
                "Whether the same signer and staples would still do after the configured time ahead.",
                Some(flag(self.success_ahead)),
            ),
            (
                "signer_validity_seconds",
                "Seconds until the first certificate of the signer's path ends.",
                some(self.signer_seconds),
            ),
            (
                "staple_validity_seconds",
                "Seconds until the first OCSP staple of the signer's path ends.",
                some(self.staple_seconds),
            ),
            (
                "clock_ahead_seconds",
                "How far this machine's clock is ahead of the metadata's.",
                some(self.clock_ahead),
            ),
            (
                "requests",
                "Requests sent to the metadata service.",
                Some(self.requests.to_string()),
            ),
            (
                "duration_seconds",
                "How long the proof took.",
                Some(format!("{:.6}", self.seconds)),
            ),
            (
                "timestamp_seconds",
                "When it was made, in Unix seconds.",
                Some(self.at.to_string()),
            ),
        ] {
            // What is not known has no sample, rather than a number that means something else.
            if let Some(value) = value {
                head(&mut out, name, help);
                let _ = writeln!(out, "{PREFIX}_{name} {value}");
            }
        }
        head(
            &mut out,
            "result",
            "1 for the result of the last run: ok, or the reason code of its refusal.",
        );
        let codes = Reason::ALL.iter().map(|reason| (Some(*reason), reason.code()));
        for (reason, code) in std::iter::once((None, "ok")).chain(codes) {
            let value = flag(self.reason == reason);
            let _ = writeln!(out, "{PREFIX}_result{{reason=\"{code}\"}} {value}");
        }
        out
    }

    /// Puts the text in the place of `path`.
    ///
    /// # Errors
    /// From the file system. The old file then stands as it was.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "is no file's path"))?;
        // In the same directory, for rename(2); with an end that the node exporter does not read.
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let written = self
            .write_new(&temporary)
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // It may never have been there.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(path)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()
    }
}

fn head(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(out, "# HELP {PREFIX}_{name} {help}\n# TYPE {PREFIX}_{name} gauge");
}
