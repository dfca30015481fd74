//! Amazon's script that parses a key document, run as its wrapper runs it.

use std::path::Path;
use std::process::Command;

use eic_simulator::evidence::{HOST, INSTANCE};
use eic_simulator::signer::Signer;
use tempfile::TempDir;

/// The lines that `eic_parse_authorized_keys`, found in `scripts`, prints for `document`.
pub(crate) fn keys(
    scripts: &Path,
    signer: &Signer,
    document: &[u8],
    fingerprint: Option<&str>,
) -> Vec<String> {
    let directory = TempDir::new().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let keys = file("keys", document);
    let anchors = file("anchors.pem", signer.root.pem().as_bytes());
    for part in ["work", "ocsp"] {
        std::fs::create_dir(directory.path().join(part)).unwrap();
    }
    for (name, der) in &signer.staples {
        file(&format!("ocsp/{name}"), der);
    }
    let mut command = Command::new("/bin/sh");
    command
        .arg(scripts.join("eic_parse_authorized_keys"))
        .args(["-x", "true", "-o", "/usr/bin/openssl"]);
    command
        .arg("-p")
        .arg(keys)
        .arg("-d")
        .arg(directory.path().join("work"));
    command.args(["-s", signer.chain.trim_end(), "-i", INSTANCE, "-c", HOST]);
    command
        .arg("-a")
        .arg(anchors)
        .arg("-v")
        .arg(directory.path().join("ocsp"));
    if let Some(fingerprint) = fingerprint {
        command.args(["-f", fingerprint]);
    }
    let output = command.output().expect("the script starts");
    // sshd throws away what a command that fails has printed.
    if !output.status.success() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}
